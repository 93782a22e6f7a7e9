"""Values whose type is not that of their key: read where they have one clear meaning, otherwise refused."""

from __future__ import annotations

from datetime import date
from typing import Any

from detectron2.config import CfgNode

from .errors import ConfigError

_WORDS: dict[type, str] = {bool: "True or False", int: "a whole number", float: "a number"}
_WORDS |= {str: "text, in quotes where it would be read as something else", list: "a list", tuple: "a list"}


def in_words(default: Any) -> str:
    """What a key with this default takes."""
    return _WORDS.get(type(default), f"a value of type {type(default).__name__}")


def fitting(key: str, value: Any, default: Any) -> Any:
    """A value in the type of its key's default: 1 as 1.0, 1000.0 as 1000, a tuple as a list.

    None, of which the type says nothing, stays what it is, on either side.

    Raises:
        ConfigError: it is of another type.
    """
    kind = type(default)
    if value is None or default is None or type(value) is kind:
        return value
    if kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(value)
    shown = f"the date {value}" if isinstance(value, date) else repr(value)
    example = f", such as [{value!r}]" if kind in (list, tuple) else ""
    raise ConfigError(f"{key} is {shown}; allowed: {in_words(default)}{example}")


def as_written(key: str, value: Any, default: Any) -> Any:
    """What yacs makes of a value in a file or on the command line, in the type of its key's default.

    Text is read as Python, as yacs does, but for a key of text only where it is text in quotes, or None: 2024 is the
    name of a folder, too. What is returned is not read again by ``merge_from_list``.

    Raises:
        ConfigError: it is of another type.
    """
    read = CfgNode._decode_cfg_value(value)
    if isinstance(default, str) and isinstance(value, str) and not (read is None or isinstance(read, str)):
        read = value
    read = fitting(key, read, default)
    return repr(read) if isinstance(read, str) else read
