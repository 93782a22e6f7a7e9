"""What a lazy config builds: by its trainer, and once before anything long begins, without memory and without data."""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from detectron2.config import instantiate
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler

from ..data import resumable_loader
from ..errors import ConfigError, require
from .hardware import check_memory
from .lazy_building import OF_DATA, built_lazily
from .lazy_targets import target_of
from .optimizer import make_resumable
from .parts import blank_records, try_augmentations
from .training_checks import check_batch

Part = TypeVar("Part")

BATCH_SIZE = "dataloader.train.total_batch_size"
# How often the schedule is asked for its value, evenly from beginning to end.
_MOMENTS = 200


def check_lazy_parts(cfg: DictConfig, args: argparse.Namespace) -> tuple[nn.Module | None, Optimizer | None]:
    """Build all that the command line asks for, without the data; try the augmentations on a blank image.

    Returns:
        The model and its optimizer, without values; None where it cannot be had so, or is not needed.

    Raises:
        ConfigError: something of Detectron2's or torch's refuses a value.
    """

    def part(name: str, section: str, make: Callable[[DictConfig], Part]) -> Part:
        return built_lazily(name, section, make, cfg, args)

    model = part("The model", "model", _model_without_values)
    optimizer = None
    if not args.eval_only:
        batch = OmegaConf.select(cfg, BATCH_SIZE)
        if isinstance(batch, int):
            check_batch(batch, args.num_gpus * args.num_machines, key=BATCH_SIZE)
        if model is not None:
            optimizer = part("The optimizer", "optimizer", lambda c: build_optimizer(c, model))
        _check_schedule(part("The learning rate's schedule (lr_multiplier)", "lr_multiplier", build_schedule))
        part("What reads the training data (dataloader.train)", "dataloader.train", lambda c: _try_loader(c, "train"))
    if (evaluator := cfg.dataloader.get("evaluator")) is not None:
        part("What reads the test data (dataloader.test)", "dataloader.test", lambda c: _try_loader(c, "test"))
        _check_evaluator(evaluator)
    return model, optimizer


def build_optimizer(cfg: DictConfig, model: nn.Module) -> Optimizer:
    """``optimizer``, which goes on from a checkpoint of one of its kind. ``cfg`` stays as it is."""
    parts = copy.deepcopy(cfg.optimizer)
    parts.params.model = model
    optimizer = instantiate(parts)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(f"optimizer._target_ makes a {type(optimizer).__name__}; allowed: an optimizer of PyTorch")
    make_resumable(optimizer, [], key="optimizer")
    return optimizer


def build_schedule(cfg: DictConfig) -> Any:
    """``lr_multiplier``."""
    return instantiate(cfg.lr_multiplier)


def build_train_loader(cfg: DictConfig, dataset: Any = None) -> Any:
    """``dataloader.train``; in place of Detectron2's own one that is exactly resumable.

    Args:
        dataset: in the place of the config's, and of its sampler.
    """
    parts = cfg.dataloader.train
    if target_of("dataloader.train", parts) is not build_detection_train_loader:
        return instantiate(parts)
    left_out = ("_target_",) if dataset is None else ("_target_", *OF_DATA)
    values = {str(name): instantiate(value) for name, value in parts.items() if name not in left_out}
    return resumable_loader(**({"dataset": dataset} if dataset is not None else {}), **values)


def _model_without_values(cfg: DictConfig) -> nn.Module | None:
    try:
        with torch.device("meta"):
            model = instantiate(cfg.model)
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
        return None  # somebody's model that needs weights while it is built
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model._target_ makes a {type(model).__name__}; allowed: a torch.nn.Module")
    check_memory(model)
    return model


def _check_schedule(schedule: Any) -> None:
    if not isinstance(schedule, ParamScheduler):
        name = type(schedule).__name__
        raise ConfigError(f"lr_multiplier._target_ makes a {name}; allowed: a ParamScheduler of fvcore")
    for moment in (number / _MOMENTS for number in range(_MOMENTS)):
        factor = schedule(moment)
        where = f"lr_multiplier is {factor!r} after {moment:.0%} of the training"
        require(math.isfinite(factor) and factor >= 0, f"{where}; allowed: 0 or more")


def _try_loader(cfg: DictConfig, split: str) -> None:
    loaders = {"train": build_detection_train_loader, "test": build_detection_test_loader}
    parts = cfg.dataloader[split]
    if target_of(f"dataloader.{split}", parts) is not loaders[split]:
        return
    sampler = parts.get("sampler")
    is_one = sampler is None or isinstance(sampler, (DictConfig, Sampler))
    require(is_one, f"dataloader.{split}.sampler is {sampler!r}; allowed: LazyCall(...)(...) of a sampler")
    if split == "train":
        build_train_loader(cfg, blank_records())
    else:
        values = {str(k): instantiate(v) for k, v in parts.items() if k not in ("_target_", *OF_DATA)}
        build_detection_test_loader(blank_records(), **values)
    mapper = instantiate(parts.get("mapper"))
    if isinstance(augmentations := getattr(mapper, "augmentations", None), T.AugmentationList):
        try_augmentations(augmentations, 3)


def _check_evaluator(evaluator: Any) -> None:
    """That its data set is there. It is not built, for which Detectron2's reads the annotations."""
    for part in evaluator if isinstance(evaluator, ListConfig) else [evaluator]:
        name = part.get("dataset_name") if isinstance(part, DictConfig) else None
        if name is not None:
            fine = isinstance(name, str) and name in DatasetCatalog
            require(fine, f"dataloader.evaluator.dataset_name is {name!r}; allowed: the name of one data set")


def dataset_names(cfg: DictConfig, split: str) -> list[str]:
    """The data sets of ``dataloader.train`` or ``dataloader.test``, as far as they are written as Detectron2 does.

    Raises:
        ConfigError: they are not names.
    """
    dataset = OmegaConf.select(cfg, f"dataloader.{split}.dataset")
    if not OmegaConf.is_dict(dataset) or "_target_" not in dataset:
        return []
    key = f"dataloader.{split}.dataset"
    if target_of(key, dataset) is not get_detection_dataset_dicts:
        return []
    names = [dataset.names] if isinstance(dataset.names, str) else dataset.names
    fine = isinstance(names, (list, ListConfig)) and len(names) > 0 and all(isinstance(n, str) and n for n in names)
    require(fine, f"{key}.names is {dataset.names!r}; allowed: the name of a data set, or a list of them")
    return list(names)
