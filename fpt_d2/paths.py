"""What stands at a path or an address, told before it is opened: a pipe may never end."""

from __future__ import annotations

import errno
import os
import stat
from typing import IO, Any
from urllib.parse import unquote

from detectron2.utils.file_io import PathManager

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: str | os.PathLike[str]) -> str:
    """What stands at a local path, links followed: ``"a file"``, ``"a folder"``, ``"a pipe"``; ``""`` for nothing."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return ""
    return "a file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "of an unknown kind")


def what_is_there(path: str) -> str:
    """What is wrong with a path that is not of the kind it should be: ``"is a pipe"``, or ``"does not exist"``."""
    kind = kind_of(path) or ("a link to nothing" if os.path.islink(path) else "")
    return f"is {kind}" if kind else "does not exist"


def open_file(path: str | os.PathLike[str], mode: str = "rb", **options: Any) -> IO[Any]:
    """``PathManager.open`` of a regular file. Raises OSError, as ever, and if the path is that of something else."""
    if (kind := kind_of(path)) not in ("", "a file"):
        raise OSError(errno.EINVAL, f"it is {kind}, not a file", str(path))
    return PathManager.open(str(path), mode, **options)  # type: ignore[no-any-return]


def read_file(path: str | os.PathLike[str]) -> bytes:
    """All of a file. Raises as :func:`open_file`."""
    with open_file(path) as file:
        content: bytes = file.read()
    return content


def why(error: Exception) -> str:
    """Why something cannot be read, in words and without the number of the system's error."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def climbs(address: str) -> bool:
    """Whether an address has ``..`` in it, by which what is fetched would be kept outside the folder for it."""
    return "://" in address and ".." in unquote(address).split("/")
