"""From a data set's ``evaluator_type`` to Detectron2's evaluators."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import detectron2.evaluation as d2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog

from ..data.labels import read_labels
from ..errors import ConfigError
from .coco import COCOEvaluator, RotatedCOCOEvaluator
from .context import ContextCOCOEvaluator
from .panoptic import PanopticQuality
from .sem_seg_results import SemSegResults


def _load_labels(path: str, dtype: Any) -> np.ndarray:
    """As training reads them; releases of Detectron2 that precede NumPy 2 fail with it."""
    return read_labels(path).astype(dtype)


def has_rotated_boxes(cfg: CfgNode) -> bool:
    """Whether the model predicts (centre x, centre y, width, height, angle)."""
    return bool({"RROIHeads", "RRPN"} & {cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.PROPOSAL_GENERATOR.NAME})


def _coco(cfg: CfgNode, name: str, folder: str) -> d2.DatasetEvaluator:
    if has_rotated_boxes(cfg):
        return RotatedCOCOEvaluator(name, output_dir=folder)
    evaluator = ContextCOCOEvaluator if MetadataCatalog.get(name).get("context_classes", None) else COCOEvaluator
    sigmas = cfg.TEST.KEYPOINT_OKS_SIGMAS
    return evaluator(name, output_dir=folder, kpt_oks_sigmas=sigmas, api=cfg.TEST.COCO_EVAL)


def _sem_seg(cfg: CfgNode, name: str, folder: str) -> d2.DatasetEvaluator:
    return d2.SemSegEvaluator(name, output_dir=folder, sem_seg_loading_fn=_load_labels)


def _coco_panoptic(cfg: CfgNode, name: str, folder: str) -> d2.DatasetEvaluator:
    has_api = importlib.util.find_spec("panopticapi") is not None
    quality = d2.COCOPanopticEvaluator(name, folder) if has_api else PanopticQuality(name)
    return d2.DatasetEvaluators([_sem_seg(cfg, name, folder), _coco(cfg, name, folder), quality])


class _Evaluation(NamedTuple):
    """How a type of data set is evaluated.

    Attributes:
        build: (config, name of the data set, output folder) -> evaluator.
        metrics: what it measures, by task; after a "-" comes a class.
        requires: the package that Detectron2's evaluator imports, beyond those it requires itself.
        metadata: what it reads of the data set's metadata, beyond what loading a data set adds.
    """

    build: Callable[[CfgNode, str, str], d2.DatasetEvaluator]
    metrics: Mapping[str, tuple[str, ...]]
    requires: str | None = None
    metadata: tuple[str, ...] = ()


_CITYSCAPES = "cityscapes_instance"
_BOX_AP = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_RARITY_AP = (*_BOX_AP, "APr", "APc", "APf")
_CLASS_AP = (*_BOX_AP, "AP-")
_KEYPOINT_AP = ("AP", "AP50", "AP75", "APm", "APl", "AP-")
_PROPOSALS = {"box_proposals": tuple(f"AR{size}@{number}" for number in (100, 1000) for size in ("", "s", "m", "l"))}
_COCO = {"bbox": _CLASS_AP, "segm": _CLASS_AP, "keypoints": _KEYPOINT_AP, **_PROPOSALS}
_LVIS = {"bbox": _RARITY_AP, "segm": _RARITY_AP, **_PROPOSALS}
_SEM_SEG = {"sem_seg": ("mIoU", "fwIoU", "mACC", "pACC", "IoU-", "ACC-", "BoundaryIoU-", "min(IoU, B-Iou)-")}
_PANOPTIC = {"panoptic_seg": tuple(f"{quality}{part}" for part in ("", "_th", "_st") for quality in ("PQ", "SQ", "RQ"))}

_EVALUATIONS = {
    "coco": _Evaluation(_coco, _COCO),
    "coco_panoptic_seg": _Evaluation(
        _coco_panoptic,
        _COCO | _SEM_SEG | _PANOPTIC,
        metadata=("stuff_classes", "panoptic_json", "panoptic_root"),
    ),
    "lvis": _Evaluation(
        lambda _, name, folder: d2.LVISEvaluator(name, output_dir=folder), _LVIS, "lvis", metadata=("json_file",)
    ),
    _CITYSCAPES: _Evaluation(
        lambda _, name, __: d2.CityscapesInstanceEvaluator(name),
        {"segm": ("AP", "AP50")},
        metadata=("thing_classes", "gt_dir"),
    ),
    # The same mIoU as cityscapesscripts', without that package; TEST.SEM_SEG_RESULTS writes what it reads.
    "cityscapes_sem_seg": _Evaluation(_sem_seg, _SEM_SEG, metadata=("stuff_classes",)),
    "pascal_voc": _Evaluation(
        lambda _, name, __: d2.PascalVOCDetectionEvaluator(name),
        {"bbox": ("AP", "AP50", "AP75")},
        metadata=("dirname", "split", "year"),
    ),
    "sem_seg": _Evaluation(_sem_seg, _SEM_SEG, metadata=("stuff_classes",)),
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> d2.DatasetEvaluator:
    """Build the evaluator that a data set's ``evaluator_type`` asks for.

    Its files go to ``output_folder``, which is ``OUTPUT_DIR/inference`` by default. Where several data sets are tested
    each gets a folder of its name in it, because evaluators name their files alike. Raises as :func:`check_evaluator`.
    """
    check_evaluator(cfg, dataset_name)
    folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
    if len(cfg.DATASETS.TEST) > 1:
        folder = os.path.join(folder, dataset_name)
    evaluator = _EVALUATIONS[MetadataCatalog.get(dataset_name).evaluator_type].build(cfg, dataset_name, folder)
    if cfg.TEST.SEM_SEG_RESULTS:
        return d2.DatasetEvaluators([evaluator, SemSegResults(dataset_name, folder)])
    return evaluator


def metric_names(cfg: CfgNode, dataset_name: str) -> list[str] | None:
    """Name the metrics that evaluating a model on a data set gives, as they are logged: ``"bbox/AP"``.

    Returns:
        The names, one that ends in "-" to be followed by a class; None for a model that is not Detectron2's.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture == "ProposalNetwork":
        tasks = ["box_proposals"]
    elif architecture in ("GeneralizedRCNN", "RetinaNet", "PanopticFPN", "SemanticSegmentor"):
        masks, keypoints = ["segm"] * cfg.MODEL.MASK_ON, ["keypoints"] * cfg.MODEL.KEYPOINT_ON
        tasks = ["bbox", *masks, *keypoints, "sem_seg", "panoptic_seg"]
    else:
        return None
    if has_rotated_boxes(cfg):
        tasks = ["bbox"]
    metrics = _EVALUATIONS[MetadataCatalog.get(dataset_name).evaluator_type].metrics
    return [f"{task}/{metric}" for task in tasks for metric in metrics.get(task, ())]


def check_evaluator(cfg: CfgNode, dataset_name: str) -> None:
    """Check that a model can be evaluated on a data set here, before a training finds out at its first evaluation.

    Raises ConfigError if no evaluator is known for the data set, if what it needs is not installed, not in the metadata
    or not predicted, or if one of the ``context_classes`` is not a class.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", None)
    if kind not in _EVALUATIONS:
        raise ConfigError(
            f"The data set {dataset_name!r} has evaluator_type {kind!r} in its metadata; known types: "
            f"{', '.join(_EVALUATIONS)}; for one of your own override build_evaluator of fpt_d2.engine.Trainer"
        )
    check_cityscapes(dataset_name)
    package = _EVALUATIONS[kind].requires
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(f"Evaluating the data set {dataset_name!r} ({kind}) needs the package {package}: install it")
    if missing := [key for key in _EVALUATIONS[kind].metadata if metadata.get(key, None) is None]:
        raise ConfigError(
            f"Evaluating the data set {dataset_name!r} ({kind}) needs {missing[0]} in its metadata: set it"
        )
    if kind == _CITYSCAPES and not cfg.MODEL.MASK_ON:
        raise ConfigError(f"Evaluating the data set {dataset_name!r} ({kind}) needs masks: set MODEL.MASK_ON True")
    _check_context_classes(metadata)


def check_cityscapes(dataset_name: str) -> None:
    """Raises ConfigError if these are Cityscapes' instances, and Detectron2 can neither read nor evaluate them here."""
    if MetadataCatalog.get(dataset_name).get("evaluator_type", None) != _CITYSCAPES:
        return
    is_internal = "deeplearning." in inspect.getsource(d2.CityscapesInstanceEvaluator)
    package = "deeplearning" if is_internal else "cityscapesscripts"
    remedy = "which Meta alone has: take Detectron2's sources of before December 2024" if is_internal else "install it"
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"For the data set {dataset_name!r} ({_CITYSCAPES}) Detectron2 needs the package {package}"
            f"{', ' if is_internal else ': '}{remedy}"
        )


def _check_context_classes(metadata: Metadata) -> None:
    classes = metadata.get("thing_classes", None)  # None before data registered from a file are loaded
    for name in metadata.get("context_classes", None) or ():
        if classes is not None and name not in classes:
            raise ConfigError(
                f"The data set {metadata.name!r} has {name!r} among the context_classes of its metadata: it must be "
                f"one of its thing_classes, which are {', '.join(classes)}"
            )
