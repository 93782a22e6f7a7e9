"""Pickles of arrays and plain containers, of which nothing is executed and nothing outgrows the size of its file."""

from __future__ import annotations

import math
import os
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, Literal

import numpy as np

# The types of numbers and of text; neither objects nor records.
_DTYPE = re.compile(r"[<>=|]?(b1|[iufc]\d{1,2}|[SU]\d{0,4})")
# Arrays may share data in the file that they do not share in memory.
MOST_GROWTH = 4
SLACK = 2**20  # bytes
# In Python; its hints are of the one in C.
_Unpickler: Any = pickle._Unpickler


class Unreadable(Exception):
    """Why a file is not read; its path comes before."""


class ForeignObjects(Unreadable):
    """Objects of a file that are not weights."""

    def __init__(self, *names: str) -> None:
        super().__init__(
            f"holds {', '.join(names)} besides weights, and an object like that can run code while it is read: if you "
            "trust the file, read it yourself and save its weights alone, torch.save({'model': state_dict}, 'file.pth')"
        )


def read_pickle(path: str) -> Any:
    """Read a pickle of arrays and plain containers, as Detectron2's model zoo has them.

    Raises Unreadable if it has other objects; a damaged one raises anything.
    """
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, os.path.getsize(path)).load()


class _Dtype:
    """What a pickle says of a dtype. Not NumPy's own, which a pickle could change while an array has it."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ForeignObjects(f"numpy.dtype({code!r})")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder("<" if state[1] == "<" else ">" if state[1] == ">" else "=")


class _Array(np.ndarray[Any, Any]):
    """An array that takes its values from a pickle, once, as many as the pickle has."""

    reserve: Callable[[int], None] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, is_fortran, data = state
        if self.reserve is None or len(data) != math.prod(shape) * dtype.dtype.itemsize:
            raise Unreadable("has an array with more or less than its values")
        self.reserve(len(data))
        self.reserve = None
        super().__setstate__((version, shape, dtype.dtype, is_fortran, data))


class _ArrayUnpickler(_Unpickler):
    """One in C would reserve as much memory as a pickle names, for what is not in it.

    The functions that a pickle of arrays calls are replaced by some that make arrays of the data in it alone.
    """

    dispatch = dict(_Unpickler.dispatch)  # opcode -> function

    def __init__(self, file: BinaryIO, size: int) -> None:
        super().__init__(file, encoding="latin1")  # Caffe2's were written by Python 2
        self._left = MOST_GROWTH * size + SLACK
        self._globals: dict[str, Any] = {
            "__builtin__.bytes": self._bytes,
            "_codecs.encode": self._encode,
            "collections.OrderedDict": self._ordered_dict,
            "numpy.dtype": _Dtype,
            "numpy.ndarray": "numpy.ndarray",
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy.core.multiarray.scalar": self._scalar,
            "numpy.core.numeric._frombuffer": self._frombuffer,
        }

    def find_class(self, module: str, name: str) -> Any:
        known = f"{module.replace('numpy._core', 'numpy.core')}.{name}"  # as NumPy 1 writes it
        if known not in self._globals:
            raise ForeignObjects(f"{module}.{name}")
        return self._globals[known]

    def _reserve(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise Unreadable("unpacks to many times its size, which no weights do")

    def _bytes(self) -> bytes:
        return b""

    def _encode(self, text: str, encoding: str) -> bytes:
        self._reserve(len(text))
        return text.encode({"latin1": "latin1"}[encoding])

    def _ordered_dict(self, items: Iterable[tuple[Any, Any]] = ()) -> OrderedDict[Any, Any]:
        return OrderedDict((_plain(key), value) for key, value in items)

    def _reconstruct(self, kind: str, shape: tuple[int, ...], code: bytes) -> _Array:
        array: _Array = _Array((0,), np.int8)
        array.reserve = self._reserve
        return array

    def _scalar(self, dtype: _Dtype, data: bytes | str) -> Any:
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype.dtype, 1)[0]

    def _frombuffer(self, data: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> Any:
        self._reserve(len(data))
        return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)

    def _load_bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))  # as many as there are

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.stack[-1][_plain(key)] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(zip(map(_plain, items[::2]), items[1::2]))

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_plain(key): value for key, value in zip(items[::2], items[1::2])})

    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.DICT[0]] = _load_dict
    for _opcode in (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET):
        del dispatch[_opcode[0]]


def _plain(key: Any) -> str | int:
    """A key; one of tuples within tuples would take forever to look up."""
    if not isinstance(key, (str, int)):
        raise ForeignObjects(f"a {type(key).__name__} as a name")
    return key
