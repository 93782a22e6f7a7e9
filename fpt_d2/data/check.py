"""The check of a config's data sets before training or evaluation starts."""

import difflib
import json
import logging
from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ..config import SEMANTIC_SEGMENTATION
from .coco_check import CocoCheck
from .errors import DatasetError
from .sem_seg_check import check_sem_seg

logger = logging.getLogger(__name__)

# Where the heads of a meta-architecture read their number of classes.
_NUM_CLASSES_NODE = {"GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "RetinaNet": "RETINANET"}
_COCO_KEYPOINTS = 17  # whose OKS sigmas pycocotools has


def check_datasets(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check that the data sets of a config are registered and whole, and fit the model.

    The files are those of every data set that has ``json_file`` and ``image_root`` in its metadata, in COCO format,
    and for semantic segmentation every image and mask. They are read by one process of each machine, and not at all
    with ``DATASETS.CHECK False``.

    Args:
        cfg: the config.
        eval_only: ``DATASETS.TRAIN`` is not going to be read.

    Raises:
        DatasetError: everything that is wrong, in one message.
    """
    train = () if eval_only else tuple(cfg.DATASETS.TRAIN)
    names = list(dict.fromkeys([*train, *cfg.DATASETS.TEST]))
    _check_registered(names)
    problems: list[str] = []
    read_files = cfg.DATASETS.CHECK and comm.get_local_rank() == 0
    for name in names:
        if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
            problems += check_sem_seg(cfg, name, read_files=read_files)
            continue
        num_classes = len(MetadataCatalog.get(name).get("thing_classes") or ())
        if read_files:
            file_problems, num_in_file = _check_files(
                cfg, name, is_train=name in train, is_test=name in cfg.DATASETS.TEST
            )
            problems += file_problems
            num_classes = num_classes or num_in_file
        problems += _check_num_classes(cfg, name, num_classes)
        problems += _check_keypoints(cfg, name) + _check_stuff(cfg, name)
    if problems:
        raise DatasetError("\n".join(problems))


def check_names(*groups: Iterable[str]) -> None:
    """Check that data sets are registered, and their annotation files there where they have any.

    Raises:
        DatasetError: everything that is wrong, in one message.
    """
    names = list(dict.fromkeys(name for group in groups for name in group))
    _check_registered(names)
    problems = []
    for name in names:
        metadata = MetadataCatalog.get(name)
        json_file = metadata.get("json_file")
        if json_file and not PathManager.isfile(json_file):
            problems.append(_unreadable(metadata, f"{json_file} does not exist"))
    if problems:
        raise DatasetError("\n".join(problems))


def _unreadable(metadata: Metadata, reason: object) -> str:
    remedy = metadata.get("how_to_get") or "Detectron2's own data sets belong under $DETECTRON2_DATASETS"
    return f"The data set {metadata.name!r} cannot be read: {reason}; {remedy}."


def _check_registered(names: Iterable[str]) -> None:
    problems = []
    for name in names:
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(name, DatasetCatalog.list())
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            problems.append(
                f"The data set {name!r} is not registered.{hint} DATASETS.REGISTER_COCO registers your own in COCO "
                "format."
            )
    if problems:
        raise DatasetError("\n".join(problems))


def _check_num_classes(cfg: CfgNode, name: str, num_classes: int) -> list[str]:
    node = _NUM_CLASSES_NODE.get(cfg.MODEL.META_ARCHITECTURE)
    if node is None or not num_classes or cfg.MODEL[node].NUM_CLASSES == num_classes:
        return []
    return [
        f"The data set {name!r} has {num_classes} categories, but the model {cfg.MODEL[node].NUM_CLASSES}: set "
        f"MODEL.{node}.NUM_CLASSES {num_classes}."
    ]


def _check_keypoints(cfg: CfgNode, name: str) -> list[str]:
    if not cfg.MODEL.KEYPOINT_ON:
        return []
    keypoints = MetadataCatalog.get(name).get("keypoint_names")
    if not keypoints:
        return [
            f"The data set {name!r} names no keypoints, which MODEL.KEYPOINT_ON needs: register it in Python, with "
            "keypoint_names and keypoint_flip_map in its metadata."
        ]
    problems = []
    if (number := cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS) != len(keypoints):
        problems.append(
            f"The data set {name!r} has {len(keypoints)} keypoints, but the model {number}: set "
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS {len(keypoints)}."
        )
    if name in cfg.DATASETS.TEST and (len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or _COCO_KEYPOINTS) != len(keypoints):
        problems.append(
            f"The data set {name!r} has {len(keypoints)} keypoints: set TEST.KEYPOINT_OKS_SIGMAS to as many numbers, "
            "how far each may be off."
        )
    return problems


def _check_stuff(cfg: CfgNode, name: str) -> list[str]:
    if cfg.MODEL.META_ARCHITECTURE != "PanopticFPN":
        return []
    number, classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, MetadataCatalog.get(name).get("stuff_classes")
    if not classes:
        return [f"The data set {name!r} has no stuff_classes in its metadata, which PanopticFPN needs: take another."]
    if len(classes) == number:
        return []
    return [
        f"The data set {name!r} has {len(classes)} stuff classes, but the model {number}: set "
        f"MODEL.SEM_SEG_HEAD.NUM_CLASSES {len(classes)}."
    ]


def _check_files(cfg: CfgNode, name: str, *, is_train: bool, is_test: bool) -> tuple[list[str], int]:
    """What is wrong with the files of a data set, if anything, and how many categories they have."""
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    # LVIS has its own way to name images, and no files but the published ones.
    if not json_file or not image_root or metadata.get("evaluator_type") == "lvis":
        return [], 0
    try:
        content = _read(json_file)
    except DatasetError as error:
        return [_unreadable(metadata, error)], 0
    mask_format = cfg.INPUT.MASK_FORMAT if is_train and cfg.MODEL.MASK_ON else None
    fields = _evaluated_fields(cfg, metadata) if is_test else []
    check = CocoCheck(content, image_root, is_train=is_train, mask_format=mask_format, evaluated_fields=fields)
    _check_names(metadata, check)
    for line in check.warnings.lines():
        logger.warning("%s: %s", json_file, line)
    if not check.errors.counts:
        return [], len(check.categories)
    total = sum(check.errors.counts.values())
    head = f"The data set {name!r} has {total} problems in {json_file} (images: {image_root}):"
    tail = "Correct the file; DATASETS.CHECK False skips this check."
    return ["\n  ".join([head, *check.errors.lines(), tail])], len(check.categories)


def _evaluated_fields(cfg: CfgNode, metadata: Metadata) -> list[str]:
    """What Detectron2's evaluator of a data set reads from its annotations."""
    if metadata.get("evaluator_type") not in ("coco", "coco_panoptic_seg"):
        return []
    tasks = [(cfg.MODEL.MASK_ON, "segmentation"), (cfg.MODEL.KEYPOINT_ON, "num_keypoints")]
    return ["area", "iscrowd", *(field for is_on, field in tasks if is_on)]


def _read(json_file: str) -> Any:
    try:
        with PathManager.open(json_file, "r") as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise DatasetError(f"{json_file} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: no JSON, or no text
        raise DatasetError(f"{json_file} is not readable JSON ({error})") from error


def _check_names(metadata: Metadata, check: CocoCheck) -> None:
    """Detectron2's loader insists that the names registered with a data set are those of its file."""
    registered, in_file = metadata.get("thing_classes"), [check.categories[i] for i in sorted(check.categories)]
    if registered and in_file and metadata.get("evaluator_type") == "coco" and list(registered) != in_file:
        check.errors.add("categories are not the registered ones", f"{in_file} instead of {registered}")
