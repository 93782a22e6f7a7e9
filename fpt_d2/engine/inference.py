"""Inference by the keys of ``TEST``, and a trained model as the demo and the tools that only predict need it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNNWithTTA, SemanticSegmentor
from torch import nn

from ..checkpoint import FPTCheckpointer, find_weights
from ..config import SEMANTIC_SEGMENTATION
from ..config_file import read_config
from ..data import register_from_config
from ..data.labels import flipped_classes
from ..errors import WeightsError, printable
from ..modeling.sem_seg import SemanticSegmentorWithTTA, SlidingWindow
from .checks import check_that_model_builds
from .hardware import device_type
from .resumption import last_checkpoint

logger = logging.getLogger(__name__)

# Of classes: objects and pixels.
KINDS = ("thing", "stuff")
# In the addresses of weights that are a trunk alone.
_TRUNK_WEIGHTS = ("ImageNetPretrained", "DeepLab/R-", "package://")


def get_inference_config(config_file: str, opts: Sequence[str] = (), *, min_score: float | None = 0.5) -> CfgNode:
    """Build the config of a trained model, with its weights found.

    The weights are those given in ``opts``, else the last checkpoint in ``OUTPUT_DIR``, else those of the file.

    Args:
        config_file: a YAML file.
        opts: ``KEY VALUE`` pairs that override it.
        min_score: instances below this score are not predicted. None leaves that to the config.

    Returns:
        The config, frozen.

    Raises:
        UserError: no such file, an unknown key or a wrong value, no such weights or a pickle that the config refuses,
            or weights that no whole model was trained to.
    """
    cfg = read_config(config_file, opts)
    if "MODEL.WEIGHTS" not in opts[::2]:
        cfg.MODEL.WEIGHTS = last_checkpoint(cfg.OUTPUT_DIR) or cfg.MODEL.WEIGHTS
    return ready_to_predict(cfg, config_file, min_score=min_score)


def ready_to_predict(cfg: CfgNode, config_file: str = "", *, min_score: float | None = 0.5) -> CfgNode:
    """A config that was read, once it is checked and its device and scores are set.

    Args:
        cfg: changed by this.
        config_file: where it is from, for messages.
        min_score: instances below this score are not predicted. None leaves that to the config.

    Returns:
        The config, frozen.

    Raises:
        UserError: it does not make a model, or its weights cannot be those of a whole model.
    """
    check_that_model_builds(cfg, config_file)
    _check_weights(cfg)
    if device_type(cfg.MODEL.DEVICE) == "cuda" and not torch.cuda.is_available():
        logger.warning("There is no GPU for MODEL.DEVICE %s: predicting on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    if min_score is not None:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min_score
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = min_score
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = min_score
    cfg.freeze()
    return cfg


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Detectron2's predictor, for semantic segmentation with the windows and the augmentation that ``TEST`` asks for.

    Args:
        cfg: of :func:`get_inference_config`.

    Returns:
        The predictor; ``classes`` are the names that came with the weights, for :func:`class_metadata`.

    Raises:
        WeightsError: ``MODEL.WEIGHTS`` cannot be read, would run code when read, or lacks part of the model.
    """
    is_augmented = cfg.TEST.AUG.ENABLED and cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION
    predictor = _untrained_predictor(tta_config(cfg) if is_augmented else cfg)
    checkpointer = FPTCheckpointer(predictor.model, whole=True, input_format=cfg.INPUT.FORMAT)
    predictor.classes = _saved_classes(checkpointer.load(cfg.MODEL.WEIGHTS))
    predictor.model = (with_tta if is_augmented else with_sliding_window)(cfg, predictor.model)
    return predictor


def names_of_classes(datasets: Sequence[str]) -> dict[str, list[str]]:
    """Those of the first data set, as far as they are known: of objects, "thing", and of pixels, "stuff"."""
    metadata = MetadataCatalog.get(datasets[0]).as_dict() if datasets else {}
    known = {kind: metadata.get(f"{kind}_classes") for kind in KINDS}
    return {kind: [*map(str, names)] for kind, names in known.items() if names}


def _saved_classes(extras: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a training has saved of :func:`names_of_classes`; a file of weights may hold anything under that name."""
    saved = extras.get("classes")
    known = {kind: saved.get(kind) for kind in KINDS} if isinstance(saved, dict) else {}
    return {
        kind: [*map(printable, names)]
        for kind, names in known.items()
        if isinstance(names, list) and all(isinstance(name, str) for name in names)
    }


def _untrained_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Without the weights, which Detectron2's predictor would take of any model, executing what a pickle holds."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.TRUNK.PRETRAINED = "", False
    loading = logging.getLogger("fvcore.common.checkpoint")
    loading.disabled = True  # it would say that the model is initialized from scratch
    try:
        return DefaultPredictor(cfg)
    finally:
        loading.disabled = False


def without_ddp(model: nn.Module) -> nn.Module:
    inner: nn.Module = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    return inner


def with_sliding_window(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model``, in the windows of ``TEST.SLIDING_WINDOW`` where they are enabled and it is a SemanticSegmentor."""
    window = cfg.TEST.SLIDING_WINDOW
    if not window.ENABLED or not isinstance(without_ddp(model), SemanticSegmentor):
        return model
    return SlidingWindow(without_ddp(model), size=window.SIZE, stride=window.STRIDE)


def with_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model``, an R-CNN or a SemanticSegmentor, with the scales and flips of ``TEST.AUG``.

    Its images are those of :func:`tta_config`.
    """
    if not isinstance(without_ddp(model), SemanticSegmentor):
        rcnn: nn.Module = GeneralizedRCNNWithTTA(cfg, model)
        return rcnn
    flipped = flipped_classes(cfg.DATASETS.TEST) if cfg.TEST.AUG.FLIP else None
    model = with_sliding_window(cfg, without_ddp(model))
    return SemanticSegmentorWithTTA(model, DatasetMapperTTA(cfg), flipped_classes=flipped)


def tta_config(cfg: CfgNode) -> CfgNode:
    """``cfg`` with images as :func:`with_tta` takes them: for semantic segmentation not scaled, so that they are
    scaled once."""
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST = 0
        cfg.freeze()
    return cfg


def _check_weights(cfg: CfgNode) -> None:
    weights = cfg.MODEL.WEIGHTS
    if not weights or any(trunk in weights for trunk in _TRUNK_WEIGHTS):
        raise WeightsError(
            f"There is no trained model in {cfg.OUTPUT_DIR} and MODEL.WEIGHTS is {weights!r}: "
            "train first, or give a trained model as MODEL.WEIGHTS path/to/model_final.pth"
        )
    find_weights(weights, allow_pickle=cfg.MODEL.WEIGHTS_ALLOW_PICKLE)


def class_metadata(cfg: CfgNode, saved: Mapping[str, list[str]] | None = None) -> Metadata:
    """Names and colors of the categories of the first test set; where it is not at hand, ``saved`` names, or numbers.

    Args:
        saved: as :func:`names_of_classes`.
    """
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused"
    metadata = MetadataCatalog.get(name)
    try:
        register_from_config(cfg)
        if name in DatasetCatalog and not (metadata.get("thing_classes") or metadata.get("stuff_classes")):
            DatasetCatalog.get(name)  # A set in COCO format learns its names when it is read.
    except (OSError, ValueError) as error:
        instead = "by the names in the weights" if saved else "by number"
        logger.warning("Categories are drawn %s, as the data set %s cannot be read: %s", instead, name, error)
    if metadata.get("thing_classes") or metadata.get("stuff_classes"):
        return metadata
    known = saved or {}
    things = known.get("thing", ()), max(cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CLASSES)
    stuff = known.get("stuff", ()), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    named = [[*names, *map(str, range(len(names), number))] for names, number in (things, stuff)]
    return Metadata(name="__unused", thing_classes=named[0], stuff_classes=named[1])
