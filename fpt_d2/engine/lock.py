"""One training in a folder at a time."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
from typing import IO

from ..errors import ConfigError

logger = logging.getLogger(__name__)

NAME = ".lock"
_HELD = {errno.EACCES, errno.EAGAIN}
_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
# By folder. A file that is closed loses its lock, also where the process has opened it twice.
_held: dict[str, IO[str]] = {}


def lock(folder: str, *, key: str) -> None:
    """Hold the folder of a training's output, called ``key`` in the config, until :func:`unlock` or the process' end.

    The lock is POSIX's: the kernel takes it away when the process ends, data workers do not inherit it, and NFS passes
    it on to other machines (where it does not, this is logged).

    Raises:
        ConfigError: another process holds it.
    """
    if (path := os.path.realpath(folder)) in _held:
        return
    file = open(os.path.join(path, NAME), "a+")
    if not _take(file, folder, key):
        logger.warning("%s %s is on a disk without locks: see to it that one training writes there", key, folder)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    _held[path] = file


def check_unlocked(folder: str, *, key: str) -> None:
    """Raises ConfigError if another process holds the folder. Changes nothing."""
    path = os.path.realpath(folder)
    if path not in _held and os.access(os.path.join(path, NAME), os.W_OK):
        with open(os.path.join(path, NAME), "r+") as file:
            _take(file, folder, key)


def _take(file: IO[str], folder: str, key: str) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return False
        if error.errno not in _HELD:
            raise
        file.seek(0)
        raise ConfigError(
            f"{key} {folder} is in use by another training, {file.read() or 'an unknown process'}: wait for it or stop "
            "it, or choose another folder"
        ) from error
    return True


def unlock(folder: str) -> None:
    """Let go of the folder, if it is held."""
    if file := _held.pop(os.path.realpath(folder), None):
        file.close()


def held() -> list[str]:
    """The folders that this process holds."""
    return list(_held)


def unlock_all() -> None:
    """Let go of every folder that this process holds."""
    for folder in held():
        unlock(folder)
