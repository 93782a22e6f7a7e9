"""Checks of a config before anything long begins. Each failure is one sentence that says what to do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.utils.file_io import PathManager
from torch import nn

from ..checkpoint import find_weights
from ..config import SEMANTIC_SEGMENTATION
from ..data import check_datasets
from ..data.labels import flipped_classes
from ..errors import require
from ..evaluation import has_rotated_boxes
from ..evaluation.coco import check_api
from ..modeling import check_model
from ..modeling.keys import arguments_from
from ..modeling.sem_seg import SlidingWindow
from .building import built
from .cluster import check_processes, gpus_seen, is_dry
from .hardware import check_cityscapes_sets, check_device, check_memory, check_operators, check_precision, device_type
from .lock import lock
from .metrics_checks import check_evaluation
from .output_folder import check_names, check_output_dir, check_room
from .parts import check_parts, is_ours
from .resumption import check_last, finish_tag, last_checkpoint
from .resumption_checks import check_resumption
from .training_checks import check_norms, check_training

if TYPE_CHECKING:
    from .trainer import Trainer


def check_config(cfg: CfgNode, args: argparse.Namespace, trainer: type[Trainer] | None = None) -> None:
    """Check that what the config and the command line ask for can be done here.

    Args:
        cfg: with its data sets registered.
        args: of :func:`fpt_d2.cli.training_parser`.
        trainer: the class that is going to train. What a trainer can override is checked only where it is known.

    Raises:
        UserError: something that the user can mend.
    """
    check_processes(args)
    check_cityscapes_sets(() if args.eval_only else cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, args.num_machines)
    check_device(cfg.MODEL.DEVICE, gpus_seen(args), key="MODEL.DEVICE", on_cpu="MODEL.DEVICE cpu")
    check_precision(cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED and not args.eval_only, key="SOLVER.AMP.ENABLED")
    check_api(cfg.TEST.COCO_EVAL)
    check_operators(cfg, trains=not args.eval_only)
    _check_images(cfg)
    needs = cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals" and not cfg.MODEL.LOAD_PROPOSALS
    needs &= trainer is not None and is_ours(trainer, "build_train_loader")  # another may bring proposals itself
    require(not needs, "MODEL.PROPOSAL_GENERATOR.NAME is 'PrecomputedProposals', which needs MODEL.LOAD_PROPOSALS True")
    if cfg.MODEL.LOAD_PROPOSALS:
        _check_proposals(cfg, eval_only=args.eval_only)
    model = check_that_model_builds(cfg, args.config_file)
    if not args.eval_only:
        if device_type(cfg.MODEL.DEVICE) == "cpu":
            check_norms(model, args.num_gpus * args.num_machines)
        check_training(cfg, args)
        if not cfg.DEBUG.ENABLED:
            first = args.machine_rank == 0
            check_output_dir(
                cfg.OUTPUT_DIR, resume=args.resume, key="OUTPUT_DIR", make=not is_dry(args), is_first=first
            )
    elif not cfg.DEBUG.ENABLED:
        check_names(cfg.OUTPUT_DIR, key="OUTPUT_DIR")
    _check_testing(cfg)
    if trainer is not None:
        check_parts(cfg, model, trainer, args.config_file, is_eval=args.eval_only)
        check_evaluation(cfg, trainer, is_eval=args.eval_only)
    _check_weights(cfg, args, model)
    check_datasets(cfg, eval_only=args.eval_only)
    if not (args.eval_only or cfg.DEBUG.ENABLED or is_dry(args)):
        check_room(cfg.OUTPUT_DIR, model)
        if args.machine_rank == 0:
            lock(cfg.OUTPUT_DIR, key="OUTPUT_DIR")


def _check_images(cfg: CfgNode) -> None:
    """That the model has as many channels as what it is fed with; one is copied to all."""
    order, mean = cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN
    channels = {"L": len(mean), "RGBA": 4, "CMYK": 4}.get(order, 3)
    allowed = f"{channels} numbers, as INPUT.FORMAT {order!r} has channels"
    require(len(mean) == channels, f"MODEL.PIXEL_MEAN is {mean!r}; allowed: {allowed}")


def _check_proposals(cfg: CfgNode, *, eval_only: bool) -> None:
    for part in ("TEST",) if eval_only else ("TRAIN", "TEST"):
        names, files = cfg.DATASETS[part], cfg.DATASETS[f"PROPOSAL_FILES_{part}"]
        key = f"DATASETS.PROPOSAL_FILES_{part}"
        require(len(files) == len(names), f"{key} has {len(files)} files for {len(names)} data sets: give one for each")
        for file in files:
            require(PathManager.isfile(file), f"{key} names {file}, which is not there: give another file")


def check_that_model_builds(cfg: CfgNode, config_file: str = "") -> nn.Module | None:
    """Raises ConfigError if the model of ``cfg``, or the windows that it sees, cannot be built.

    That takes neither memory nor weights. Returns the model, without values, where it could be built so. For
    ``config_file`` see :func:`.building.built`.
    """
    _check_box_weights(cfg)
    name = f"The model ({cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME})"
    model = built(name, _model_that_fits, cfg, config_file)
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        with arguments_from("TEST.SLIDING_WINDOW"):
            SlidingWindow(nn.Module(), size=cfg.TEST.SLIDING_WINDOW.SIZE, stride=cfg.TEST.SLIDING_WINDOW.STRIDE)
    return model


def _check_box_weights(cfg: CfgNode) -> None:
    size = 5 if has_rotated_boxes(cfg) else 4
    for key in ("RPN", "ROI_BOX_HEAD"):
        weights = cfg.MODEL[key].BBOX_REG_WEIGHTS
        allowed = f"{size} numbers for {'rotated' if size == 5 else 'upright'} boxes"
        require(len(weights) == size, f"MODEL.{key}.BBOX_REG_WEIGHTS is {weights!r}; allowed: {allowed}")


def _model_that_fits(cfg: CfgNode) -> nn.Module | None:
    model = check_model(cfg)
    check_memory(model)
    return model


def _check_weights(cfg: CfgNode, args: argparse.Namespace, model: nn.Module | None) -> None:
    # Before the data are read, and fetched by one process only.
    weights = (last_checkpoint(cfg.OUTPUT_DIR) if args.resume else "") or cfg.MODEL.WEIGHTS
    require(bool(weights) or not args.eval_only, "--eval-only needs a trained model: add MODEL.WEIGHTS FILE")
    if weights:
        find_weights(weights, allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE)
    if args.resume:
        if not is_dry(args):
            finish_tag(cfg.OUTPUT_DIR)
        saved = check_last(cfg.OUTPUT_DIR, is_trained=not args.eval_only)
        if saved and not args.eval_only:
            check_resumption(cfg, model, saved)


def _check_testing(cfg: CfgNode) -> None:
    name, test = cfg.MODEL.META_ARCHITECTURE, cfg.TEST
    is_semantic = name == SEMANTIC_SEGMENTATION
    number = test.DETECTIONS_PER_IMAGE
    fine = number > 0 or name != "RetinaNet"
    require(fine, f"TEST.DETECTIONS_PER_IMAGE is {number}; allowed: a positive number for {name}")
    if test.AUG.ENABLED:
        is_rcnn = issubclass(META_ARCH_REGISTRY.get(name), GeneralizedRCNN)
        needs = f"an R-CNN or a {SEMANTIC_SEGMENTATION}: Detectron2 cannot augment for {name}"
        require(is_semantic or is_rcnn, f"TEST.AUG.ENABLED needs {needs}")
        needs = "a model without keypoints: Detectron2 cannot augment for them"
        require(not cfg.MODEL.KEYPOINT_ON, f"TEST.AUG.ENABLED needs {needs}")
        if test.AUG.FLIP and is_semantic:
            flipped_classes(cfg.DATASETS.TEST)
    on = {"SLIDING_WINDOW.ENABLED": test.SLIDING_WINDOW.ENABLED, "SEM_SEG_RESULTS": test.SEM_SEG_RESULTS}
    for key in on:
        require(is_semantic or not on[key], f"TEST.{key} needs a {SEMANTIC_SEGMENTATION}, not {name}")
