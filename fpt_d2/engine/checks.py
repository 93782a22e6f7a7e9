"""Checks of a config before anything long begins. Each failure is one sentence that says what to do."""

import argparse
import os

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from torch import nn

from fpt_d2.checkpoint import find_weights
from fpt_d2.data import check_datasets
from fpt_d2.data.labels import flipped_classes
from fpt_d2.evaluation import check_evaluator, metric_names
from fpt_d2.modeling import check_model

from ..config import SEMANTIC_SEGMENTATION
from ..config_check import check_model_config
from .defaults import ConfigError


def check_config(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Check that what the config and the command line ask for can be done here.

    Args:
        cfg: with its data sets registered.
        args: of Detectron2's ``default_argument_parser``.

    Raises:
        ConfigError, DatasetError, WeightsError: naming what is wrong, by whose fault it is.
    """
    check_device(cfg.MODEL.DEVICE, args.num_gpus, key="MODEL.DEVICE", on_cpu="MODEL.DEVICE cpu")
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda") and not args.eval_only:
        raise ConfigError("SOLVER.AMP.ENABLED needs a GPU: Detectron2 trains in mixed precision with CUDA only")
    try:
        check_model_config(cfg)
        check_model(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not args.eval_only:
        _check_training(cfg, args)
        if not cfg.DEBUG.ENABLED:
            check_output_dir(cfg.OUTPUT_DIR, resume=args.resume)
    _check_weights(cfg, args)
    check_datasets(cfg, eval_only=args.eval_only)
    _check_testing(cfg)
    if not args.eval_only and cfg.TEST.BEST_METRIC:
        _check_best_metric(cfg)


def check_device(device: str, num_gpus: int, *, key: str, on_cpu: str) -> None:
    """Check that a device is there, and as many of them as are asked for.

    Args:
        device: as PyTorch names it.
        num_gpus: number of processes on this machine, each with a GPU of its own where the device is one.
        key: what the device is called in the config.
        on_cpu: what to write on the command line for the CPU.

    Raises:
        ConfigError: it is not.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(
            f"{key} is {device!r}, which PyTorch does not know: cuda and cpu are what it knows"
        ) from error
    if kind != "cuda":
        return
    if not torch.cuda.is_available():
        raise ConfigError(f"{key} is {device}, but PyTorch finds no GPU here: add {on_cpu} to run on the CPU")
    if num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {num_gpus}, but PyTorch finds {torch.cuda.device_count()} GPUs here: ask for no more"
        )


def _check_training(cfg: CfgNode, args: argparse.Namespace) -> None:
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name the data sets to train on")
    _check_batch(cfg, args.num_gpus * args.num_machines)
    if cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT not in ("polygon", "bitmask"):
        raise ConfigError(f"INPUT.MASK_FORMAT is {cfg.INPUT.MASK_FORMAT!r}; allowed: 'polygon', 'bitmask'")
    test = cfg.TEST
    if test.BEST_METRIC and not (cfg.DATASETS.TEST and test.EVAL_PERIOD > 0):
        raise ConfigError("TEST.BEST_METRIC needs evaluations: set DATASETS.TEST, and TEST.EVAL_PERIOD above 0")
    if test.PATIENCE > 0 and not test.BEST_METRIC:
        raise ConfigError("TEST.PATIENCE needs the metric that shall rise: set TEST.BEST_METRIC, e.g. bbox/AP")
    if (test.LOSS or test.VIS_IMAGES > 0) and not cfg.DATASETS.TEST:
        raise ConfigError("TEST.LOSS and TEST.VIS_IMAGES need images: set DATASETS.TEST")


def _check_batch(cfg: CfgNode, processes: int) -> None:
    batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    if batch < 1 or reference < 0:
        key, value = ("REFERENCE_WORLD_SIZE", reference) if reference < 0 else ("IMS_PER_BATCH", batch)
        raise ConfigError(f"SOLVER.{key} is {value}; allowed: a positive number")
    if reference and not cfg.DEBUG.ENABLED:
        if batch % reference:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH {batch} cannot be divided among the {reference} processes of "
                "SOLVER.REFERENCE_WORLD_SIZE: make it a multiple"
            )
    elif batch % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {batch} cannot be divided among {processes} processes: make it a multiple"
        )


def _check_best_metric(cfg: CfgNode) -> None:
    names = list(dict.fromkeys(cfg.DATASETS.TEST))
    known = [
        f"{name}/{metric}" if len(names) > 1 else metric for name in names for metric in metric_names(cfg, name) or ()
    ]
    metric = cfg.TEST.BEST_METRIC
    if known and metric not in known and not any(k.endswith("-") and metric.startswith(k) for k in known):
        names_to_show = ", ".join(f"{k}CLASS" if k.endswith("-") else k for k in known)
        raise ConfigError(f"TEST.BEST_METRIC is {metric!r}, which is not evaluated; allowed: {names_to_show}")


def check_output_dir(folder: str, *, resume: bool, key: str = "OUTPUT_DIR") -> None:
    """Make the folder of a training's output, unless it holds another training that would be written over.

    Args:
        folder: the folder.
        resume: that training is to go on.
        key: what the folder is called in the config.

    Raises:
        ConfigError: it cannot be made, or holds a training.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key} {folder} cannot be made: {error.strerror}") from error
    names = os.listdir(folder)
    trained = "last_checkpoint" in names or any(n.startswith("model_") and n.endswith(".pth") for n in names)
    if trained and not resume:
        raise ConfigError(
            f"{key} {folder} holds a training already: go on with it by --resume, or choose another folder"
        )


def _check_weights(cfg: CfgNode, args: argparse.Namespace) -> None:
    checkpointer, allow_pickle = DetectionCheckpointer(nn.Module(), cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS_ALLOW_PICKLE
    if args.resume and checkpointer.has_checkpoint():
        path = checkpointer.get_checkpoint_file()
        if not os.path.isfile(path):
            raise ConfigError(f"{path} is gone, but last_checkpoint beside it names it: write another name there")
        find_weights(path, allow_pickle=allow_pickle)
    elif cfg.MODEL.WEIGHTS:
        # Before the data are read, and fetched by one process only.
        find_weights(cfg.MODEL.WEIGHTS, allow_pickle=allow_pickle)
    elif args.eval_only:
        raise ConfigError("--eval-only needs a trained model: add MODEL.WEIGHTS FILE")


def _check_testing(cfg: CfgNode) -> None:
    for name in cfg.DATASETS.TEST:
        try:
            check_evaluator(name)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    name = cfg.MODEL.META_ARCHITECTURE
    is_semantic = name == SEMANTIC_SEGMENTATION
    if cfg.TEST.AUG.ENABLED and not is_semantic and not issubclass(META_ARCH_REGISTRY.get(name), GeneralizedRCNN):
        raise ConfigError(
            f"TEST.AUG.ENABLED needs an R-CNN or a {SEMANTIC_SEGMENTATION}: Detectron2 cannot augment for {name}"
        )
    if cfg.TEST.AUG.ENABLED and cfg.MODEL.KEYPOINT_ON:
        raise ConfigError("TEST.AUG.ENABLED needs a model without keypoints: Detectron2 cannot augment for them")
    if cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FLIP and is_semantic:
        flipped_classes(cfg.DATASETS.TEST)
    if cfg.TEST.SLIDING_WINDOW.ENABLED and not is_semantic:
        raise ConfigError(f"TEST.SLIDING_WINDOW.ENABLED needs a {SEMANTIC_SEGMENTATION}: {name} sees whole images only")
    if cfg.TEST.SEM_SEG_RESULTS and not is_semantic:
        raise ConfigError(f"TEST.SEM_SEG_RESULTS needs a {SEMANTIC_SEGMENTATION}, not {name}")
