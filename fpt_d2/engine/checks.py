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
from fpt_d2.evaluation import check_evaluator
from fpt_d2.modeling import check_backbone

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
    _check_device(cfg, args)
    try:
        check_model_config(cfg)
        check_backbone(cfg)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not args.eval_only:
        _check_training(cfg, args)
        check_output_dir(cfg.OUTPUT_DIR, resume=args.resume or cfg.DEBUG.ENABLED)
    _check_weights(cfg, args)
    check_datasets(cfg, eval_only=args.eval_only)
    _check_testing(cfg)


def _check_device(cfg: CfgNode, args: argparse.Namespace) -> None:
    if not cfg.MODEL.DEVICE.startswith("cuda"):
        if cfg.SOLVER.AMP.ENABLED and not args.eval_only:
            raise ConfigError("SOLVER.AMP.ENABLED needs a GPU: Detectron2 trains in mixed precision with CUDA only")
    elif not torch.cuda.is_available():
        raise ConfigError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no GPU here: add MODEL.DEVICE cpu to run on the CPU"
        )
    elif args.num_gpus > torch.cuda.device_count():
        raise ConfigError(
            f"--num-gpus is {args.num_gpus}, but PyTorch finds {torch.cuda.device_count()} GPUs here: ask for no more"
        )


def _check_training(cfg: CfgNode, args: argparse.Namespace) -> None:
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name the data sets to train on")
    processes = args.num_gpus * args.num_machines
    if cfg.SOLVER.REFERENCE_WORLD_SIZE == 0 and cfg.SOLVER.IMS_PER_BATCH % processes:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {processes} processes: make it "
            "a multiple"
        )
    test = cfg.TEST
    if test.BEST_METRIC and not (cfg.DATASETS.TEST and test.EVAL_PERIOD > 0):
        raise ConfigError("TEST.BEST_METRIC needs evaluations: set DATASETS.TEST, and TEST.EVAL_PERIOD above 0")
    if test.PATIENCE > 0 and not test.BEST_METRIC:
        raise ConfigError("TEST.PATIENCE needs the metric that shall rise: set TEST.BEST_METRIC, e.g. bbox/AP")
    if (test.LOSS or test.VIS_IMAGES > 0) and not cfg.DATASETS.TEST:
        raise ConfigError("TEST.LOSS and TEST.VIS_IMAGES need images: set DATASETS.TEST")


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
