"""Reading a weights file without executing what a stranger may have put into it."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.utils.env import TORCH_VERSION
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..errors import WeightsError

# All that an array needs; module names as numpy 1 writes them.
_ARRAY_GLOBALS = {
    "__builtin__.bytes",
    "_codecs.encode",
    "collections.OrderedDict",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
}
# How the files begin that torch.save writes.
_ZIP = b"PK\x03\x04"
# How a file begins that is something else.
_IMPOSTORS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "a web page",
    b"version https://git-lfs": "a Git LFS pointer",
}


def find_weights(path: str, *, allow_pickle: bool = True, key: str = "MODEL.WEIGHTS_ALLOW_PICKLE") -> str:
    """Find the file of ``MODEL.WEIGHTS``, which for an address means to fetch it.

    Args:
        path: a file, or an address that Detectron2 knows.
        allow_pickle: False takes ``.safetensors`` and the zip that ``torch.save`` writes alone.
        key: what ``allow_pickle`` is called in the config.

    Returns:
        Its local path.

    Raises:
        WeightsError: it is not there, cannot be fetched, or is a pickle and must not be.
    """
    try:
        # What follows a question mark is for Detectron2's checkpointer.
        local: str = PathManager.get_local_path(urlparse(path)._replace(query="").geturl())
    except (OSError, RuntimeError, KeyError) as error:  # no connection; no such name in Detectron2's catalog
        raise WeightsError(f"The weights {path} cannot be fetched: {error}") from error
    if not os.path.isfile(local):
        raise WeightsError(f"There are no weights {path}: set MODEL.WEIGHTS to another file, or to '' for none")
    if not allow_pickle and not local.endswith(".safetensors") and not _begins(local, _ZIP):
        raise WeightsError(
            f"The weights {path} are a pickle, or nothing known, and {key} is False: give them as .safetensors or as "
            f"torch.save writes them (PyTorch 1.6 or newer), or set {key} to True"
        )
    return local


def _begins(path: str, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def read_weights(path: str) -> Any:
    """Read a file of weights: ``.pkl``, ``.safetensors``, or anything that ``torch.save`` has written.

    Nothing in it is executed: of a pickle only arrays and plain containers are read, of torch's format what
    ``weights_only`` allows.

    Returns:
        What was saved, on the CPU.

    Raises:
        WeightsError: it holds anything else, or is damaged.
    """
    readers = {".pkl": _read_pickle, ".safetensors": _read_safetensors}
    try:
        return readers.get(os.path.splitext(path)[1], _read_torch)(path)
    except Exception as error:  # a damaged file can make its reader raise anything
        raise WeightsError(_explain(path, error)) from error


def read_state_dict(path: str) -> dict[str, Any]:
    """The weights by name of a file of :func:`read_weights`: all of it, or what is called "model" or "state_dict".

    Raises:
        WeightsError: there are none.
    """
    content = read_weights(path)
    for key in ("model", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    return weights_by_name(content, path)


def weights_by_name(content: Any, path: str) -> dict[str, Any]:
    """``content`` of the file, when it is weights by name, and a WeightsError otherwise."""
    if isinstance(content, dict) and all(isinstance(w, (Tensor, np.ndarray)) for w in content.values()):
        return content
    found = list(content)[:5] if isinstance(content, dict) else type(content).__name__
    raise WeightsError(f"{path} is no checkpoint of weights by name; what it holds is {found}")


def write_checkpoint(checkpoint: dict[str, Any], path: str) -> None:
    """Write a checkpoint that Detectron2 reads: as a pickle of arrays to ``.pkl``, else as torch does, to ``.pth``.

    Raises:
        WeightsError: the name has another suffix.
    """
    suffix = os.path.splitext(path)[1]
    if suffix not in (".pkl", ".pth"):
        raise WeightsError(f"{path} has the suffix {suffix!r}: Detectron2 knows .pkl and .pth")
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    if suffix == ".pkl":
        arrays = {name: np.asarray(weight) for name, weight in checkpoint["model"].items()}
        with open(path, "wb") as file:
            pickle.dump({**checkpoint, "model": arrays}, file)
    else:
        torch.save(checkpoint, path)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module.replace('numpy._core', 'numpy.core')}.{name}" not in _ARRAY_GLOBALS:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is no part of an array")
        return super().find_class(module, name)


def _read_pickle(path: str) -> Any:
    with open(path, "rb") as file:
        return _ArrayUnpickler(file, encoding="latin1").load()  # latin1: Caffe2's were written by Python 2


def _read_torch(path: str) -> Any:
    # Before torch 2.6 the list of what is allowed could not name an object of another numpy version.
    numpy_too = TORCH_VERSION >= (2, 6)
    with torch.serialization.safe_globals(_numpy_globals()) if numpy_too else contextlib.nullcontext():
        return torch.load(path, map_location="cpu", weights_only=True)


def _numpy_globals() -> list[Any]:
    """A numpy number among a checkpoint's extras, such as a metric, is as harmless as an array."""
    scalar = np.float64(0).__reduce__()[0]
    functions = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*functions, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError("reading it needs safetensors: pip install safetensors") from error
    return load_file(path)


def _explain(path: str, error: Exception) -> str:
    with open(path, "rb") as file:
        head = file.read(64).lstrip().lower()
    for begin, kind in _IMPOSTORS.items():
        if head.startswith(begin):
            return f"{path} is {kind} instead of weights: delete it and fetch the file itself"
    if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"{path} holds {found[1]} besides weights, and an object like that can run code while it is read: if you "
            "trust the file, read it yourself and save its weights alone, torch.save({'model': state_dict}, 'file.pth')"
        )
    if isinstance(error, WeightsError):
        return f"{path} cannot be read: {error}"
    reason = f"{type(error).__name__} {error}".partition("\n")[0].partition(". ")[0]
    return f"{path} ({os.path.getsize(path)} bytes) is cut short or damaged ({reason}): fetch it again"
