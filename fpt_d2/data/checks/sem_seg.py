"""The check of a data set for semantic segmentation: its folders, its classes, and every pair of image and mask."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...errors import DatasetError
from ..findings import Findings, different_number, how_to_get
from ..labels import read_labels
from .image_files import ImageFinding, examine_image, longest_side, map_files, refuse_black_sets

logger = logging.getLogger(__name__)

_HEAD = "MODEL.SEM_SEG_HEAD"
# What the data sets of this project and of Detectron2 call their folders.
_FOLDERS = ("image_root", "sem_seg_root", "image_dir", "gt_dir")


def check_sem_seg(cfg: CfgNode, name: str, *, read_files: bool) -> list[str]:
    """Check one data set against the head and, with ``read_files``, all its files. Returns a sentence per problem."""
    metadata = MetadataCatalog.get(name)
    classes, ignore_label = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if not classes:
        return [f"The data set {name!r} has no semantic masks, which {cfg.MODEL.META_ARCHITECTURE} needs"]
    head = cfg.MODEL.SEM_SEG_HEAD
    problems = different_number(name, "classes", len(classes), head.NUM_CLASSES, f"{_HEAD}.NUM_CLASSES ")
    if ignore_label is not None and ignore_label != head.IGNORE_VALUE:
        problems.append(
            f"The data set {name!r} marks pixels without a class by {ignore_label}, but the model ignores "
            f"{head.IGNORE_VALUE}: set {_HEAD}.IGNORE_VALUE {ignore_label}"
        )
    is_train = name in cfg.DATASETS.TRAIN
    max_size = longest_side(cfg, is_train=is_train)
    return problems + (check_sem_seg_files(name, max_size=max_size, is_train=is_train) if read_files else [])


def check_sem_seg_files(name: str, *, max_size: int | None = None, is_train: bool = False) -> list[str]:
    """Check that the folders of a data set exist, and that image and mask of every record do and fit.

    Args:
        name: of the data set.
        max_size: what the long side of an image is scaled to at most, if at all.
        is_train: it is trained on, so that there must be something to learn.

    Returns:
        A sentence for each kind of problem, with the number of files that have it and the first of them.
    """
    metadata = MetadataCatalog.get(name)
    remedy = how_to_get(metadata)
    for folder in filter(None, (metadata.get(key) for key in _FOLDERS)):
        if not PathManager.isdir(folder):
            return [f"The data set {name!r} is not there: the folder {folder} does not exist; {remedy}"]
    try:
        records = DatasetCatalog.get(name)
    except (AssertionError, OSError, ValueError) as error:  # AssertionError: Detectron2's, of a folder without masks
        return [f"The data set {name!r} cannot be read: {error}; {remedy}"]
    if not records:
        return [f"The data set {name!r} has no images; {remedy}"]
    errors, warnings = _shared_masks(records), Findings()
    classes, ignore_label, seen = metadata.stuff_classes, metadata.get("ignore_label"), set[int]()
    examine = partial(_examine, num_classes=len(classes), ignore_label=ignore_label, max_size=max_size)
    for found, labels in map_files(examine, records, "checking masks"):
        seen |= labels
        for kind, example, is_error in found:
            (errors if is_error else warnings).add(kind, example)
    refuse_black_sets(errors, warnings, len(records))
    if is_train and not errors.counts:
        _check_learnable(classes, seen, ignore_label, errors, warnings)
    for line in warnings.lines():
        logger.warning("The data set %r: %s", name, line)
    return [
        f"The data set {name!r}: {line}. Correct the files, or {remedy}; DATASETS.CHECK False skips this check"
        for line in errors.lines()
    ]


def _shared_masks(records: Sequence[dict[str, Any]]) -> Findings:
    """Masks that stand for two images, ``a.jpg`` and ``a.png``."""
    errors, first = Findings(), dict[str, str]()
    for record in records:
        mask, image = record.get("sem_seg_file_name"), record["file_name"]
        if mask is not None and first.setdefault(mask, image) != image:
            errors.add("mask of two images", f"{mask} of {first[mask]} and {image}")
    return errors


def _check_learnable(
    classes: Sequence[str], seen: set[int], ignore_label: int | None, errors: Findings, warnings: Findings
) -> None:
    """Add that the masks of a training set have one class at most, or lack some."""
    if len(seen) < min(2, len(classes)):
        found = f"only {classes[min(seen)]!r}, {min(seen)}" if seen else "none"
        kind = "masks in which there is nothing to tell apart"
        errors.add(kind, f"of the {len(classes)} classes {found}; {ignore_label} marks pixels that have no class")
    for label in range(len(classes)):
        if label not in seen:
            warnings.add("class of which no mask has a pixel", f"{classes[label]!r} ({label})")


def _examine(
    record: dict[str, Any], *, num_classes: int, ignore_label: int | None, max_size: int | None
) -> tuple[list[ImageFinding], set[int]]:
    """What is to be said of an image and its mask, of the mask the first problem; and the classes in it."""
    image, mask = record["file_name"], record.get("sem_seg_file_name")
    if mask is None:
        return [ImageFinding("image without a mask", image)], set()
    for kind, path in (("image", image), ("mask", mask)):
        if not PathManager.exists(path):
            return [ImageFinding(f"{kind} file does not exist", path)], set()
    if os.path.realpath(image) == os.path.realpath(mask):
        return [ImageFinding("image and mask are one file", image)], set()
    try:
        labels = read_labels(mask)
    except DatasetError as error:
        return [ImageFinding("mask is not a label image", str(error))], set()
    size, mismatch = (labels.shape[1], labels.shape[0]), "mask has another size than its image"
    found = examine_image(image, image, size, max_size=max_size, mismatch=mismatch)
    in_mask, seen = label_findings(mask, labels, num_classes, ignore_label)
    return found + in_mask, seen


def label_findings(
    mask: str, labels: np.ndarray, num_classes: int, ignore_label: int | None
) -> tuple[list[ImageFinding], set[int]]:
    """What is to be said of the labels (H, W) uint8 of a mask, and the classes among them."""
    present = {label for label, count in enumerate(Image.fromarray(labels).histogram()) if count}  # faster than NumPy
    seen = {label for label in present if label < num_classes and label != ignore_label}
    if wrong := present - seen - {ignore_label}:
        allowed = f"0 to {num_classes - 1}" + (f" and {ignore_label}" if ignore_label is not None else "")
        kind = f"mask has a label that is not a class; classes are {allowed}"
        return [ImageFinding(kind, f"{mask} has {min(wrong)}")], seen
    return ([] if seen else [ImageFinding("mask without a pixel that has a class", mask, is_error=False)]), seen
