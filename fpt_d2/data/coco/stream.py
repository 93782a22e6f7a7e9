"""Reading a large JSON file a part at a time, so that its text is never in memory as a whole."""

from __future__ import annotations

import codecs
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from detectron2.utils.file_io import PathManager

from ...errors import DatasetError
from ...paths import open_file, why

logger = logging.getLogger(__name__)

_PART = 5_000  # records
_BYTES = 2**23
_SECONDS = 5.0  # between two reports of the progress
# How far before the end of a text that is cut the decoder may see the error: that of \ud83d\ude00 or -Infinity.
_LONGEST_CUT = 16
_CUT = "the file ends too early"
_GZIP = b"\x1f\x8b"
_WHITESPACE = " \t\n\r"


@contextmanager
def open_json(json_file: str) -> Iterator[JsonReader]:
    """Open a JSON file that holds an object.

    Raises:
        DatasetError: it does not exist or is something else; or, while it is read, is not JSON, or is cut short.
    """
    if PathManager.isdir(json_file):
        raise DatasetError(f"{json_file} is a folder, where an annotation file is needed")
    try:
        with open_file(json_file) as file:
            yield JsonReader(file, json_file)
    except FileNotFoundError as error:
        raise DatasetError(f"{json_file} does not exist") from error
    except OSError as error:
        raise DatasetError(f"{json_file} cannot be read ({why(error)})") from error


class JsonReader:
    """A window that moves over the text of a file.

    Attributes:
        encoding: of the text: UTF-8 as it should be, or what else programs write.
    """

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name = file, name
        self._length = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(4)
        file.seek(0)
        if start.startswith(_GZIP):
            raise DatasetError(f"{name} is compressed by gzip: unpack it")
        self.encoding = json.detect_encoding(start) if len(start) > 1 else "utf-8"
        self._decoder = codecs.getincrementaldecoder(self.encoding)()
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._before = "", 0, 0  # characters in the window, read in it, and before it
        self._reported = time.monotonic()

    def parts(self) -> Iterator[tuple[str, Any]]:
        """Yield keys and values of the object, lists in parts of at most 5000 elements. Logs the progress."""
        if not self._next():
            raise DatasetError(f"{self._name} is empty")
        if self._next() != "{":
            raise DatasetError(f"{self._name} is not an object with images, annotations and categories")
        seen: set[str] = set()
        for _ in self._elements("}"):
            key = self._value()
            if not isinstance(key, str) or self._next() != ":":
                raise self._error("a key and a colon are expected")
            if key in seen:
                raise self._error(f"the key {key!r} stands there twice")
            seen.add(key)
            self._at += 1
            if self._next() == "[":
                yield from ((key, part) for part in self._list())
            else:
                yield key, self._value()
        if self._next():
            raise self._error("nothing is expected after the object")

    def _list(self) -> Iterator[list[Any]]:
        part: list[Any] = []
        for _ in self._elements("]"):
            part.append(self._value())
            if len(part) == _PART:
                yield part
                part = []
        yield part

    def _elements(self, end: str) -> Iterator[None]:
        """Stop at each element of a list or object, of which the caller reads the value, and go on behind it."""
        self._at += 1
        if self._next() == end:
            self._at += 1
            return
        while True:
            yield
            sign = self._next()
            if sign not in (",", end):
                raise self._error(f"a comma or {end} is expected" if sign else _CUT)
            self._at += 1
            if sign == end:
                return

    def _next(self) -> str:
        """The next character that is not white space; empty at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _WHITESPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._read_more():
                return ""

    def _value(self) -> Any:
        self._next()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # A text of which the end is not in the window yet, or a file with a mistake.
                is_cut = error.pos > len(self._text) - _LONGEST_CUT or error.msg.startswith("Unterminated")
                if is_cut and self._read_more():
                    continue
                raise self._error(_CUT if is_cut else error.msg, error.pos - self._at) from error
            except RecursionError as error:
                raise self._error("lists or objects are nested too deeply") from error
            except ValueError as error:
                raise self._error("a number has thousands of digits") from error
            else:
                if end < len(self._text) or not self._read_more():  # the digits of a number may go on
                    self._at = end
                    return value

    def _read_more(self) -> bool:
        """Whether there is more; the window then begins at the position."""
        kept = self._text[self._at :]
        data = self._file.read(max(_BYTES, len(kept)))
        try:
            more = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DatasetError(f"{self._name} is not text in {error.encoding}") from error
        self._before += self._at
        self._text, self._at = kept + more, 0
        self._report()
        return bool(data)

    def _report(self) -> None:
        if time.monotonic() - self._reported > _SECONDS:
            self._reported = time.monotonic()
            share = self._file.tell() / self._length
            logger.info("Reading %s: %.0f of %.0f MB", self._name, share * self._length / 1e6, self._length / 1e6)

    def _error(self, what: str, ahead: int = 0) -> DatasetError:
        where = self._before + self._at + ahead
        return DatasetError(f"{self._name} is not valid JSON ({what}, at character {where})")
