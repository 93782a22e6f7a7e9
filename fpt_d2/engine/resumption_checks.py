"""Whether a training can go on with a config, and what of the config has changed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checkpoint.convert import rename_modules
from ..config_values import flat
from ..errors import ConfigError, WeightsError, require
from .optimizer import build_optimizer
from .resumption import BEST_MODEL, read_best

logger = logging.getLogger(__name__)

# Keys of SOLVER that are the optimizer's and therefore in the checkpoint, and those of the schedule, which are not.
_KEPT = {"BASE_LR", "BIAS_LR_FACTOR", "BACKBONE_MULTIPLIER", "FPT_MULTIPLIER", "MOMENTUM", "NESTEROV"}
_KEPT |= {"WEIGHT_DECAY", "WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS"}
_SCHEDULE = {"LR_SCHEDULER_NAME", "STEPS", "GAMMA", "NUM_DECAYS", "BASE_LR_END", "RESCALE_INTERVAL", "WARMUP_FACTOR"}
_SCHEDULE |= {"WARMUP_ITERS", "WARMUP_METHOD", "POLY_LR_POWER", "POLY_LR_CONSTANT_ENDING"}
_ANEW = "start another training from its weights, with another output folder and without --resume"


def check_resumption(cfg: CfgNode, model: nn.Module | None, saved: dict[str, Any]) -> None:
    """Check that the training in ``OUTPUT_DIR`` can go on with this config.

    Args:
        model: of the config, without values; None where it could not be built so.
        saved: its last checkpoint.

    Raises:
        UserError: it is of another model or optimizer, or the best model cannot be read.
    """
    steps = saved["trainer"].get("_trainer", {})
    if model is not None:
        optimizer = _loaded_optimizer(steps["optimizer"], model, cfg) if "optimizer" in steps else None
        check_same_model(saved["model"], model, cfg.OUTPUT_DIR, changed_keys(cfg))
        if optimizer is not None:
            check_same_optimizer(optimizer, cfg.OUTPUT_DIR)
    require(
        "optimizer" in steps,
        f"--resume cannot go on: the checkpoint in {cfg.OUTPUT_DIR} has no optimizer where this training has it: go on "
        f"by the command that wrote it, or {_ANEW}",
    )
    _say_what_changed(cfg)
    if cfg.TEST.BEST_METRIC:
        _check_best(os.path.join(cfg.OUTPUT_DIR, f"{BEST_MODEL}.pth"))


def _say_what_changed(cfg: CfgNode) -> None:
    """Of the keys of ``SOLVER``: some are in the checkpoint, and the schedule is that of the config."""
    changed = {key: f"SOLVER.{key} {cfg.SOLVER[key]} (was {was})" for key, was in _changed(cfg, "SOLVER")}
    if kept := ", ".join(text for key, text in changed.items() if key in _KEPT):
        logger.warning("With --resume the optimizer stays as it was, and these have no effect: %s", kept)
    if new := ", ".join(text for key, text in changed.items() if key in _SCHEDULE):
        logger.warning("From here on the learning rate follows another schedule: %s", new)


def _check_best(path: str) -> None:
    try:
        if os.path.exists(path):
            read_best(path)
    except WeightsError as error:
        raise WeightsError(f"{error}, or delete it: the best value is then forgotten") from error


def _loaded_optimizer(state: dict[str, Any], model: nn.Module, cfg: CfgNode) -> Optimizer:
    optimizer = build_optimizer(cfg, model)
    try:
        optimizer.load_state_dict(state)  # without memory, as the model is
    except ConfigError as error:
        was = ", ".join(changed_keys(cfg))
        raise ConfigError(f"{error} (as they were: {was})" if was else str(error)) from error
    return optimizer


def check_same_optimizer(optimizer: Optimizer, folder: str) -> None:
    """Raises ConfigError if the state that was loaded from the last checkpoint in a folder does not fit the weights."""
    for weight, values in optimizer.state.items():
        shapes = [tuple(value.shape) for value in values.values() if isinstance(value, Tensor) and value.dim()]
        odd = [shape for shape in shapes if shape != tuple(weight.shape)]
        require(
            not odd,
            f"--resume cannot go on: the optimizer of the checkpoint in {folder} has a state of the shape "
            f"{odd[:1]} for a weight of the shape {tuple(weight.shape)}: {_ANEW}",
        )


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
    changed = [(key, was) for key, was in _changed(cfg, "MODEL") if key not in ("WEIGHTS", "DEVICE")]
    for key, was in changed[:4]:
        yield f"MODEL.{key} {was}"


def _changed(cfg: CfgNode, section: str) -> list[tuple[str, Any]]:
    """The keys of a section that have changed since the training was begun, and their values then."""
    try:
        with open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), encoding="utf-8") as file:
            before = _values(yaml.safe_load(file)[section])
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return []
    now = _values(yaml.safe_load(cfg[section].dump()))
    return [(key, before[key]) for key in now if key in before and before[key] != now[key]]


def _values(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(node).items() if not isinstance(value, Mapping)}
