"""The folder of a training's output: whether all that a training writes can be written there."""

from __future__ import annotations

import os
import re

from torch import nn

from ..errors import ConfigError, require
from ..paths import kind_of
from .lock import check_unlocked
from .resumption import LAST, UNFINISHED

# What is written there by name.
_FILES = re.compile(
    r"\.lock|log\.txt(\.rank\d+)?|metrics\.json|config\.yaml|evaluation\.json|learning_curves\.png|"
    r"last_checkpoint(\.unfinished)?|model_(\d+|best|final)(\.unfinished)?\.pth"
)
_FOLDERS = ("inference", "inference_TTA")


def check_output_dir(folder: str, *, resume: bool, key: str, make: bool = True, is_first: bool = True) -> None:
    """Make the folder of a training's output, whose name in the config is ``key``; without ``make`` only look.

    Of several machines the first one holds it, so that only that asks whether another training does.

    Raises:
        ConfigError: it cannot be made or written to, or holds a training that would be written over without ``resume``.
    """
    above = os.path.abspath(folder)
    try:
        if make:
            os.makedirs(folder, exist_ok=True)
        names = os.listdir(folder) if make or os.path.exists(folder) else []
    except OSError as error:
        raise ConfigError(f"{key} {folder} cannot be made: {error.strerror}") from error
    while not os.path.exists(above):
        above = os.path.dirname(above)
    require(os.access(above, os.W_OK), f"{key} {folder} cannot be written to: choose another folder")
    check_names(folder, key=key)
    if is_first:
        check_unlocked(folder, key=key)
    written = [name for name in names if name.startswith("model_") and name.endswith(".pth") and UNFINISHED not in name]
    require(
        resume or not (LAST in names or written),
        f"{key} {folder} holds a training already: go on with it by --resume, or choose another folder",
    )


def check_names(folder: str, *, key: str) -> None:
    """Raises ConfigError if something in the folder is in the way of what a training or an evaluation writes."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        path = os.path.join(folder, name)
        if _FILES.fullmatch(name):
            require(not os.path.isdir(path), f"{path} is a folder, and a file is to have this name: {_remedy(key)}")
            # Devices such as /dev/full and /dev/null take what is written, but no lock.
            what = kind_of(os.path.realpath(path))
            is_odd = os.path.islink(path) and not os.path.isdir(os.path.dirname(os.path.realpath(path)))
            is_odd |= os.path.exists(path) and not os.path.isfile(path) and (what != "a device" or name == ".lock")
            is_odd |= os.path.islink(path) and os.path.islink(os.path.realpath(path))  # a circle
            require(
                not is_odd, f"{path} is {what or 'a link to nothing'}, and a file is to have this name: {_remedy(key)}"
            )
            fine = os.access(path, os.W_OK) or not os.path.exists(path)
            require(fine, f"{path} cannot be written to: make it writable, or choose another {key}")
        elif name in _FOLDERS:
            require(os.path.isdir(path), f"{path} is a file, and a folder is to have this name: {_remedy(key)}")


def _remedy(key: str) -> str:
    return f"rename it, or choose another {key}"


def check_room(folder: str, model: nn.Module | None) -> None:
    """Raises ConfigError if the disk of the folder has less room than one checkpoint takes."""
    if model is None:
        return
    # Weights, and an optimizer's state of at least their size.
    needed = 2 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    place = os.statvfs(folder)
    free = place.f_bavail * place.f_frsize
    if free < needed:
        raise ConfigError(
            f"OUTPUT_DIR {folder} has room for {free / 2**20:.1f} MiB, and one checkpoint of this model takes about "
            f"{needed / 2**20:.0f} MiB: make room, or choose another folder"
        )
