"""From which checkpoint a training goes on, and whether it can."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import nn

from ..checkpoint.convert import rename_modules
from ..checkpoint.files import read_weights
from ..config_values import flat
from ..errors import ConfigError, UserError, WeightsError
from .optimizer import build_optimizer

LAST = "last_checkpoint"
UNFINISHED = ".unfinished"
BEST_MODEL = "model_best"
_ANEW = "start another training from its weights, with another output folder and without --resume"


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


def read_trainer(path: str) -> dict[str, Any]:
    """A checkpoint of a training.

    Raises:
        WeightsError: it cannot be read, or has no more than weights.
    """
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path} cannot be read: you do not have the right to")
    content = read_weights(path)
    if not (isinstance(content, dict) and isinstance(content.get("model"), Mapping) and _is_state(content)):
        raise WeightsError(f"{path} holds weights but not the state of a training, from which --resume could go on")
    return content


def _is_state(content: dict[str, Any]) -> bool:
    """Whether this has what a trainer of Detectron2's saves: a lazy config's has its optimizer without ``_trainer``."""
    trainer = content.get("trainer")
    if not isinstance(trainer, Mapping) or type(trainer.get("iteration")) is not int or trainer["iteration"] < 0:
        return False
    steps = trainer.get("_trainer", trainer)
    optimizer = steps.get("optimizer", {"param_groups": []}) if isinstance(steps, Mapping) else None
    return isinstance(optimizer, Mapping) and "param_groups" in optimizer


def check_resumption(cfg: CfgNode, model: nn.Module | None, saved: dict[str, Any]) -> None:
    """Check that the training in ``OUTPUT_DIR`` can go on with this config.

    Args:
        model: of the config, without values; None where it could not be built so.
        saved: its last checkpoint.

    Raises:
        UserError: it is of another model or optimizer, or the best model cannot be read.
    """
    if model is not None:
        if "optimizer" in (trainer := saved["trainer"].get("_trainer", {})):
            _check_optimizer(trainer["optimizer"], model, cfg)
        check_same_model(saved["model"], model, cfg.OUTPUT_DIR, changed_keys(cfg))
    if cfg.TEST.BEST_METRIC:
        _check_best(os.path.join(cfg.OUTPUT_DIR, f"{BEST_MODEL}.pth"))


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


def _check_best(path: str) -> None:
    try:
        if os.path.exists(path):
            read_best(path)
    except WeightsError as error:
        raise WeightsError(f"{error}, or delete it: the best value is then forgotten") from error


def read_best(path: str) -> dict[str, Any]:
    """``model_best.pth``. Raises WeightsError if it cannot be read."""
    content = read_weights(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path} is not a checkpoint")
    return content


def _check_optimizer(state: dict[str, Any], model: nn.Module, cfg: CfgNode) -> None:
    try:
        build_optimizer(cfg, model).load_state_dict(state)  # without memory, as the model is
    except ConfigError as error:
        was = ", ".join(changed_keys(cfg))
        raise ConfigError(f"{error} (as they were: {was})" if was else str(error)) from error


def check_same_model(saved: dict[str, Any], model: nn.Module, folder: str, changed: Iterable[str] = ()) -> None:
    """Raises ConfigError if the weights that the last checkpoint in a folder has are not those of the model.

    ``changed`` are keys of the config and what they were.
    """
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    renamed = rename_modules({name.removeprefix("module."): value for name, value in saved.items()}, model.state_dict())
    there = {name: tuple(value.shape) for name, value in renamed.items()}
    differing = [name for name in {**wanted, **there} if wanted.get(name) != there.get(name) and not _is_counter(name)]
    if not differing:
        return
    name = next((n for n in differing if n in wanted and n in there), differing[0])
    keys = ", ".join(changed) or f"those of the model are in {os.path.join(folder, 'config.yaml')}"
    raise ConfigError(
        f"--resume cannot go on: the checkpoint in {folder} is of another model ({len(differing)} tensors "
        f"differ, among them {name}: {there.get(name, 'not there')} there, {wanted.get(name, 'not there')} here): set "
        f"the keys as they were ({keys}), or {_ANEW}"
    )


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def changed_keys(cfg: CfgNode) -> Iterator[str]:
    """The first keys of ``MODEL`` whose values differ from those in the config that the training was begun with."""
    try:
        with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), encoding="utf-8") as file:
            before = _values(yaml.safe_load(file)["MODEL"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return
    now = _values(yaml.safe_load(cfg.MODEL.dump()))
    changed = [key for key in now if key in before and before[key] != now[key] and key not in ("WEIGHTS", "DEVICE")]
    for key in changed[:4]:
        yield f"MODEL.{key} {before[key]}"


def _values(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(node).items() if not isinstance(value, Mapping)}


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
