"""What several keys together say of a training, and what it needs. Each failure is one sentence."""

from __future__ import annotations

import argparse
import importlib.util

from detectron2.config import CfgNode
from torch import nn

from ..errors import require
from .optimizer import check_optimizer


def check_training(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Raises ConfigError if the keys contradict each other, or a package is missing."""
    test, evaluates, reference = cfg.TEST, bool(cfg.DATASETS.TEST), cfg.SOLVER.REFERENCE_WORLD_SIZE
    require(bool(cfg.DATASETS.TRAIN), "DATASETS.TRAIN is empty: name the data sets to train on")
    is_scaled = reference > 0 and not cfg.DEBUG.ENABLED
    check_batch(
        cfg.SOLVER.IMS_PER_BATCH,
        reference if is_scaled else args.num_gpus * args.num_machines,
        key="SOLVER.IMS_PER_BATCH",
        of=" of SOLVER.REFERENCE_WORLD_SIZE" if is_scaled else "",
    )
    can_crop = not (cfg.INPUT.CROP.ENABLED and cfg.MODEL.MASK_ON) or importlib.util.find_spec("shapely") is not None
    require(can_crop, "INPUT.CROP.ENABLED needs the package shapely, by which Detectron2 crops polygons: install it")
    check_optimizer(cfg)
    _check_schedule(cfg)
    _check_scales(cfg)
    require(
        not test.BEST_METRIC or (evaluates and test.EVAL_PERIOD > 0),
        "TEST.BEST_METRIC needs evaluations: set DATASETS.TEST, and TEST.EVAL_PERIOD above 0",
    )
    require(
        test.PATIENCE <= 0 or bool(test.BEST_METRIC),
        "TEST.PATIENCE needs a metric to watch: set TEST.BEST_METRIC, e.g. bbox/AP",
    )
    require(
        evaluates or not (test.LOSS or test.VIS_IMAGES > 0),
        "TEST.LOSS and TEST.VIS_IMAGES need images: set DATASETS.TEST",
    )


def check_batch(batch: int, processes: int, *, key: str, of: str = "") -> None:
    """Raises ConfigError if the images of a batch, ``key`` in the config, cannot be shared among the processes."""
    require(
        batch % processes == 0,
        f"{key} {batch} cannot be divided among {'the ' if of else ''}{processes} processes{of}: make it a multiple",
    )


def _check_schedule(cfg: CfgNode) -> None:
    solver, name = cfg.SOLVER, cfg.SOLVER.LR_SCHEDULER_NAME
    if name == "WarmupMultiStepLR":
        steps, end = solver.STEPS, solver.MAX_ITER
        words = f"below SOLVER.MAX_ITER, which is {end}; what is above it is left out"
        require(end not in steps, f"SOLVER.STEPS is {steps!r}; allowed: iterations {words}")
    elif name == "WarmupCosineLR":
        rate, last = solver.BASE_LR, solver.BASE_LR_END
        require(rate > 0, f"SOLVER.BASE_LR is {rate!r}; allowed: a positive number with {name}")
        require(last <= rate, f"SOLVER.BASE_LR_END is {last!r}; allowed: up to SOLVER.BASE_LR, which is {rate!r}")


def _check_scales(cfg: CfgNode) -> None:
    sizes = cfg.INPUT.MIN_SIZE_TRAIN
    require(
        cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING != "range" or (len(sizes) == 2 and sizes[0] <= sizes[1]),
        f"INPUT.MIN_SIZE_TRAIN is {sizes!r}; allowed: the smallest and the largest size, as "
        "INPUT.MIN_SIZE_TRAIN_SAMPLING is 'range'",
    )


def check_norms(model: nn.Module | None, processes: int) -> None:
    """Raises ConfigError if the model has norms that cannot be trained in so many processes on the CPU."""
    has_sync = model is not None and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    require(
        not has_sync or processes == 1,
        "SyncBN trains in several processes on GPUs only (PyTorch): set the NORM keys to naiveSyncBN for the CPU",
    )
