"""The checkpoints of a training: which is the last one, and whether it is whole."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

from ..checkpoint.files import read_weights
from ..checkpoint.finite import state_not_finite
from ..errors import UserError, WeightsError
from .saved_state import wrong_in_best, wrong_in_checkpoint

LAST = "last_checkpoint"
UNFINISHED = ".unfinished"
BEST_MODEL = "model_best"


def last_checkpoint(folder: str) -> str:
    """The checkpoint that ``last_checkpoint`` in the folder of a training names, ``""`` where there is none.

    Raises:
        WeightsError: there are checkpoints, but it does not name one of them.
    """
    tag = os.path.join(folder, LAST)
    if not os.path.lexists(tag):
        if first := _first(folder):
            return os.path.join(folder, first)
        if checkpoints(folder):
            raise WeightsError(f"{folder} holds checkpoints, but there is no {LAST} in it: {_remedy(folder)}")
        return ""
    name = _read_tag(tag)
    if not name or os.path.basename(name) != name or not name.isprintable():
        raise WeightsError(f"{tag} does not name a checkpoint beside it, but holds {name[:80]!r}: {_remedy(folder)}")
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise WeightsError(f"{path} is gone, but {LAST} beside it names it: {_remedy(folder)}")
    return path


def _read_tag(tag: str) -> str:
    try:
        with open(tag, "rb") as file:
            return file.read(4096).decode(errors="replace").strip()
    except OSError as error:
        raise WeightsError(f"{tag} cannot be read: {error.strerror}; {_remedy(os.path.dirname(tag))}") from error


def _first(folder: str) -> str:
    """The first checkpoint of a training that was killed between the two files' getting their names."""
    tag = os.path.join(folder, LAST + UNFINISHED)
    name = _read_tag(tag) if os.path.isfile(tag) else ""
    return name if name and os.path.isfile(os.path.join(folder, name)) else ""


def finish_tag(folder: str) -> None:
    """Let ``last_checkpoint`` name that first checkpoint, for what reads it next."""
    if _first(folder) and not os.path.lexists(os.path.join(folder, LAST)):
        os.replace(os.path.join(folder, LAST + UNFINISHED), os.path.join(folder, LAST))


def checkpoints(folder: str) -> list[str]:
    """The checkpoints of a training, the newest first; without the best one, which is older than the training is."""
    try:
        names = [name for name in os.listdir(folder) if re.fullmatch(r"model_(\d+|final)\.pth", name)]
    except OSError:
        return []
    paths = [path for path in (os.path.join(folder, name) for name in names) if os.path.isfile(path)]
    return sorted(paths, key=_iteration, reverse=True)


def _iteration(path: str) -> int:
    """Of a checkpoint, by its name; a copy's time is not that of the training."""
    if number := re.search(r"model_(\d+)\.pth$", path):
        return int(number[1])
    try:
        return int(read_trainer(path)["iteration"])
    except (UserError, KeyError, TypeError, ValueError):
        return -1


def newest_whole(folder: str) -> str:
    """The newest checkpoint that a training can go on from; ``""`` where there is none."""
    for path in checkpoints(folder):
        try:
            read_trainer(path)
        except UserError:
            continue
        return path
    return ""


def _remedy(folder: str, besides: str = "") -> str:
    """What to do where ``last_checkpoint`` names nothing to go on from, such as ``besides``."""
    whole = os.path.basename(newest_whole(folder))
    if whole not in ("", besides):
        return f"write {whole}, the newest that is whole, into {LAST}, or choose another folder"
    return f"{'no other' if besides else 'none in the folder'} is whole: choose another folder"


def go_on(folder: str) -> str:
    """What to do when the training in a folder has ended before its time."""
    with suppress(WeightsError):
        if last := last_checkpoint(folder):
            return f"the same command with --resume goes on from {os.path.basename(last)}"
    return "no checkpoint was saved yet, so start it again"


def read_trainer(path: str) -> dict[str, Any]:
    """A checkpoint of a training.

    Raises:
        WeightsError: it cannot be read, has no more than weights, or numbers in its state are not finite.
    """
    content: dict[str, Any] = read_weights(path)
    if wrong := wrong_in_checkpoint(content):
        raise WeightsError(
            f"{path} holds weights but not the state of a training, from which --resume could go on ({wrong})"
        )
    if wrong_values := state_not_finite(_optimizer_state(content)):
        raise WeightsError(
            f"{path} holds a state of its optimizer that is not finite ({len(wrong_values)} tensors, the first "
            f"{wrong_values[0]})"
        )
    return content


def _optimizer_state(content: dict[str, Any]) -> dict[str, Any]:
    """A lazy config's trainer has its optimizer without ``_trainer``; empty where there is none."""
    trainer = content["trainer"]
    state: dict[str, Any] = trainer.get("_trainer", trainer).get("optimizer", {})
    return state


def check_last(folder: str, *, is_trained: bool = True) -> dict[str, Any]:
    """The last checkpoint of a training, empty where there is none.

    Args:
        is_trained: further; weights are enough to be evaluated.

    Raises:
        WeightsError: there is one that cannot be gone on from.
    """
    if not (last := last_checkpoint(folder)):
        return {}
    try:
        content: dict[str, Any] = (read_trainer if is_trained else read_weights)(last)
    except WeightsError as error:
        raise WeightsError(f"--resume cannot go on: {error}; {_remedy(*os.path.split(last))}") from error
    return content


def read_best(path: str) -> dict[str, Any]:
    """``model_best.pth``. Raises WeightsError if it cannot be read."""
    content: dict[str, Any] = read_weights(path)
    if wrong := wrong_in_best(content):
        raise WeightsError(f"{path} is not the checkpoint of a best model ({wrong})")
    return content
