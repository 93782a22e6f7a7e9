"""Reading a weights file without executing what a stranger may have put into it."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.utils.env import TORCH_VERSION
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..errors import WeightsError
from ..paths import climbs, open_file
from .pickles import MOST_GROWTH, SLACK, ForeignObjects, Unreadable, read_pickle

# How the files begin that torch.save writes.
_ZIP = b"PK\x03\x04"
_EXPORT = "save dense weights by name, torch.save({'model': model.state_dict()}, 'file.pth')"
# How torch speaks of memory that it does not get.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|Cannot allocate memory")
# How a file begins that is something else.
_IMPOSTORS = {
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "a web page",
    b"version https://git-lfs": "a Git LFS pointer",
}


def find_weights(path: str, *, allow_pickle: bool = True, key: str = "MODEL.WEIGHTS_ALLOW_PICKLE") -> str:
    """The local path of ``MODEL.WEIGHTS``, a file, or an address that Detectron2 knows, from which it is fetched.

    Without ``allow_pickle``, which is called ``key`` in the config, only ``.safetensors`` and the zip that
    ``torch.save`` writes are taken. Raises WeightsError if it does not exist, cannot be fetched, or must not be taken.
    """
    if climbs(path):
        raise WeightsError(f"The weights {path} have an address with '..' in it: write the address itself")
    try:
        # What follows a question mark is for Detectron2's checkpointer.
        local: str = PathManager.get_local_path(urlparse(path)._replace(query="").geturl())
    except WeightsError:  # of one of our own kinds of address
        raise
    # No connection; no such name in Detectron2's catalog; a bracket that is not closed.
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise WeightsError(f"The weights {path} cannot be fetched: {error}") from error
    if not os.path.isfile(local):
        raise WeightsError(f"There are no weights {path}: set MODEL.WEIGHTS to another file, or to '' for none")
    if not allow_pickle and not local.lower().endswith(".safetensors") and not _head(local).startswith(_ZIP):
        raise WeightsError(
            f"The weights {path} are a pickle, or nothing known, and {key} is False: give them as .safetensors or as "
            f"torch.save writes them (PyTorch 1.6 or newer), or set {key} to True"
        )
    return local


def read_weights(path: str) -> Any:
    """Read a file of weights to the CPU: ``.pkl``, ``.safetensors``, or anything that ``torch.save`` has written.

    Nothing in it is executed: of a pickle only arrays and plain containers are read, of torch's format what
    ``weights_only`` allows. Raises WeightsError if it holds anything else, is damaged, or cannot be read here.
    """
    readers = {".pkl": read_pickle, ".safetensors": _read_safetensors}
    head = _head(path).lstrip().lower()
    try:
        return readers.get(os.path.splitext(path)[1].lower(), _read_torch)(path)
    except Unreadable as error:
        raise WeightsError(f"{path} {error}") from error
    except Exception as error:  # a damaged file can make its reader raise anything
        size, kind = os.path.getsize(path), type(error).__name__
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            raise WeightsError(f"{path} ({size} bytes) needs more memory than is free: end other programs") from error
        for begin, impostor in _IMPOSTORS.items():
            if head.startswith(begin):
                raise WeightsError(
                    f"{path} is {impostor} instead of weights: delete it and fetch the file itself"
                ) from error
        if suffix := _suffix_of(path):
            raise WeightsError(f"{path} cannot be read, but begins as a {suffix} does: rename it to that") from error
        damage = "cut short or damaged" + ", or holds more than weights" * isinstance(error, pickle.UnpicklingError)
        raise WeightsError(f"{path} ({size} bytes) is {damage} ({kind}): fetch it again") from error


def read_state_dict(path: str) -> dict[str, Any]:
    """The weights by name of a file of :func:`read_weights`: all of it, or what is called "model" or "state_dict".

    Raises WeightsError if there are none.
    """
    content = read_weights(path)
    for key in ("model", "state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    return weights_by_name(content, path)


def weights_by_name(content: Any, path: str) -> dict[str, Any]:
    """Return the ``content`` of a file if it is weights by name; raise WeightsError if not."""
    if isinstance(content, dict) and all(isinstance(w, (Tensor, np.ndarray)) for w in content.values()):
        if odd := [name for name, weight in content.items() if not isinstance(name, str) or not _has_values(weight)]:
            raise WeightsError(
                f"{path} has a weight {odd[0]!r} without a name, or without values of its own: {_EXPORT}"
            )
        return content
    found = list(content)[:5] if isinstance(content, dict) else type(content).__name__
    raise WeightsError(f"{path} is not a checkpoint of weights by name; what it holds is {found}")


def _has_values(weight: Tensor | np.ndarray) -> bool:
    """Whether all values of a weight are in memory: not those of another device, nor a few that stand for many."""
    if isinstance(weight, np.ndarray):
        return weight.dtype.kind in "biuf"
    if weight.is_nested or weight.is_complex() or weight.is_quantized:
        return False
    if weight.layout != torch.strided or weight.device.type != "cpu":
        return False
    return weight.numel() * weight.element_size() <= weight.untyped_storage().nbytes() + SLACK


def write_checkpoint(checkpoint: dict[str, Any], path: str) -> None:
    """Write a checkpoint that Detectron2 reads: as a pickle of arrays to ``.pkl``, else as torch does, to ``.pth``.

    Raises WeightsError if the name has another suffix.
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


def _head(path: str) -> bytes:
    try:
        with open_file(path) as file:
            head: bytes = file.read(64)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
    return head


def _suffix_of(path: str) -> str:
    """The suffix that a file should have by how it begins, if that is another than its own."""
    head = _head(path)
    suffix = ".pth" if head.startswith(_ZIP) else ".safetensors" if head[8:10] == b'{"' else ""
    own = os.path.splitext(path)[1].lower()
    return suffix if suffix != own and (own in (".pkl", ".safetensors") or suffix == ".safetensors") else ""


def _read_torch(path: str) -> Any:
    _check_archive(path)
    # Before torch 2.6 the list of what is allowed could not name an object of another numpy version.
    if TORCH_VERSION < (2, 6):
        return torch.load(path, map_location="cpu", weights_only=True)
    with torch.serialization.safe_globals(_numpy_globals()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            with contextlib.suppress(ValueError):  # of the format before PyTorch 1.6, which cannot be listed
                if names := torch.serialization.get_unsafe_globals_in_checkpoint(path):
                    raise ForeignObjects(*sorted(names)) from error
            raise


def _check_archive(path: str) -> None:
    """Raises Unreadable for a zip that unpacks to much more than it is: torch.save does not compress."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked, size = sum(entry.file_size for entry in archive.infolist()), os.path.getsize(path)
        if unpacked > MOST_GROWTH * size + SLACK:
            raise Unreadable(f"({size} bytes) unpacks to {unpacked} bytes, which no weights do")


def _numpy_globals() -> list[Any]:
    """A numpy number among a checkpoint's extras, such as a metric, is as harmless as an array."""
    scalar = np.float64(0).__reduce__()[0]
    functions = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*functions, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}]


def _read_safetensors(path: str) -> Any:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise Unreadable("cannot be read without safetensors: pip install safetensors") from error
    return load_file(path)
