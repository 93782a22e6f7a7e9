"""What a training or an evaluation needs of an annotation file and its images, besides what is right in any case."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

from detectron2.utils.file_io import PathManager

from ..coco import CocoFile
from ..coco.file import Example
from ..coco.schema import Record
from ..findings import Findings
from .image_files import ImageFinding, examine_image, map_files, refuse_black_sets

logger = logging.getLogger(__name__)

# Where there are more, as in COCO, every second, third, ... image is opened, which takes seconds, or a minute on a
# slow disk.
_MAX_OPENED = 20_000
_MANY = 2000  # which take a while

File = TypeVar("File")


class Use(NamedTuple):
    """What is done with a data set.

    Attributes:
        is_train: it is trained on.
        is_evaluated: by COCO's metrics.
        has_masks: masks are trained or evaluated.
        mask_format: ``INPUT.MASK_FORMAT`` where masks are trained, else None.
        num_keypoints: of an object; 0 without keypoints.
        needs_objects: keys that make no sense without annotations. A test set may have none, as COCO's test-dev.
        is_read_again: by an evaluator other than this project's.
    """

    is_train: bool = False
    is_evaluated: bool = False
    has_masks: bool = False
    mask_format: str | None = None
    num_keypoints: int = 0
    needs_objects: tuple[str, ...] = ()
    is_read_again: bool = False


def check_use(content: CocoFile, use: Use) -> Findings:
    """What keeps a file from being used so."""
    errors = Findings()
    needed = {"images": True, "categories": True, "annotations": use.is_train}
    for key, is_needed in needed.items():
        if is_needed and not content.counts[key]:
            errors.add("top-level key missing or empty", key)
    left_out = Counter(_why_left_out(annotation, use) for annotation in content.annotations)
    is_whole = len(content.annotations) == content.counts["annotations"]  # and none is left out for its mistakes
    if use.is_train and left_out and is_whole and None not in left_out:
        reasons = "; ".join(f"{reason} ({count})" for reason, count in left_out.items())
        errors.add("nothing can be learned from the annotations", reasons)
    elif use.needs_objects and is_whole and all(annotation.get("iscrowd") for annotation in content.annotations):
        errors.add("no annotation that is not a crowd, which the config needs", ", ".join(use.needs_objects))
    if use.is_read_again:
        errors.update(content.changes)
    for annotation in content.annotations:
        for kind in _lacks(annotation, use):
            errors.add(kind, Example(content, "annotations", annotation))
    if use.num_keypoints:
        _check_keypoints(content, use, errors)
    return errors


def check_left_out(content: CocoFile, use: Use) -> Findings:
    """What is not read, though it is there."""
    notes = Findings()
    for annotation in content.annotations:
        if reason := _why_left_out(annotation, use):
            notes.add(reason, Example(content, "annotations", annotation))
    return notes


def _why_left_out(annotation: Record, use: Use) -> str | None:
    """Why nothing is learned of an annotation, or, where it is not trained, no prediction can be right about it."""
    no_area = annotation.get("no_area")
    if annotation.get("iscrowd"):
        return "crowd, which trainings leave out" if use.is_train else None
    if no_area == "box":
        return "box of no area" + (", which trainings leave out" if use.is_train else "")
    if no_area == "mask" and use.has_masks:
        learned = ", from which none is learned" if use.is_train else ""
        return f"mask of no area (points on one line, or RLE without pixels){learned}"
    return None


def _lacks(annotation: Record, use: Use) -> Iterator[str]:
    mask, is_crowd = annotation.get("segmentation"), annotation.get("iscrowd")
    if use.mask_format and not is_crowd:
        if not mask:
            yield "no segmentation, which MODEL.MASK_ON needs"
        elif isinstance(mask, dict) and use.mask_format == "polygon":
            yield "RLE needs INPUT.MASK_FORMAT bitmask, which is polygon"
    if use.is_evaluated:
        if annotation.get("area") is None:
            yield "no area, which the evaluation needs: add the pixels of the object, or width times height of its box"
        if use.has_masks and not mask:
            yield "no segmentation, which the evaluation needs: add its polygons or RLE, or set MODEL.MASK_ON False"
        if use.is_read_again and "iscrowd" not in annotation:
            yield "no iscrowd, which the evaluation needs: add 0, or 1 for a crowd"
    if use.num_keypoints and (use.is_evaluated or not is_crowd):
        keypoints = annotation.get("keypoints")
        if not keypoints:
            yield "no keypoints, which MODEL.KEYPOINT_ON needs"
        elif len(keypoints) % 3 == 0 and len(keypoints) != 3 * use.num_keypoints:
            yield f"keypoints are not x, y and visibility of each of the {use.num_keypoints}"


def _check_keypoints(content: CocoFile, use: Use, errors: Findings) -> None:
    lists = [category["keypoints"] for category in content.categories if category.get("keypoints")]
    if any(names != lists[0] for names in lists):
        errors.add("categories have different keypoints, where Detectron2 has one list for all", content.name)
    if lists and len({*lists[0]}) < len(lists[0]):
        errors.add("keypoint name is not unique", lists[0])
    if use.is_train and content.annotations and not any(a.get("num_keypoints") for a in content.annotations):
        errors.add("no keypoint has a visibility of 1 or 2", "none can be learned")


def to_open(files: list[File]) -> list[File]:
    """All of them, or of very many every second, third, ..."""
    return files[:: math.ceil(len(files) / _MAX_OPENED) or 1]


def check_image_files(content: CocoFile, image_root: str, max_size: int | None = None) -> tuple[Findings, Findings]:
    """What makes a training fail that reads the images, such as a missing file, and what is only to be known of them.

    ``max_size`` is what the long side of an image is scaled to at most; None where that is not known.
    """
    errors, notes = Findings(), Findings()
    image_root = image_root or os.curdir  # of file names that are whole paths
    # An image may be listed twice, and be of the right size once.
    named = list(dict.fromkeys((i["file_name"], (i["width"], i["height"])) for i in content.images))
    if not PathManager.isdir(image_root):
        errors.add("image folder does not exist", image_root)
        return errors, notes
    missing = list(_missing_files(image_root, dict.fromkeys(name for name, _ in named)))
    for name in missing:
        errors.add("image file does not exist", name)
    if missing:
        absent = {*missing}
        named = [(name, size) for name, size in named if name not in absent]
    if os.path.isdir(image_root):  # not of another machine, from which each image would be fetched
        chosen = to_open(named)
        what = f"checking {len(chosen)} of {len(named)} images"
        if len(chosen) > _MANY:
            logger.info("%s: %s", image_root, what)
        for found in map_files(partial(_examine, image_root, max_size), chosen, what):
            for kind, example, is_error in found:
                (errors if is_error else notes).add(kind, example)
        refuse_black_sets(errors, notes, len(chosen))
    return errors, notes


def _missing_files(image_root: str, names: Iterable[str]) -> Iterator[str]:
    """Those of ``names`` that are not under ``image_root``, by listing each folder once."""
    listings: dict[str, set[str]] = {}
    for name in names:
        folder, base = os.path.split(os.path.join(image_root, name))
        if folder not in listings:
            listings[folder] = set(PathManager.ls(folder)) if PathManager.isdir(folder) else set()
        if base not in listings[folder] and not PathManager.isdir(os.path.join(folder, base)):  # "." is not in it
            yield name


def _examine(image_root: str, max_size: int | None, named: tuple[str, tuple[int, int]]) -> list[ImageFinding]:
    return examine_image(os.path.join(image_root, named[0]), *named, max_size=max_size)
