"""What records of an annotation file mean together: names and ids that are told apart, and where objects lie."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any

import numpy as np

from ..findings import Findings
from ..names import is_plain_text
from .file import CocoFile, Example, without_collection
from .geometry import TOLERANCE, WITHIN_ONE, check_geometry
from .rle import rle_problem
from .schema import KEYS, Record

logger = logging.getLogger(__name__)

_PART, _REPORTED = 20_000, 200_000  # annotations
# Up to this share, what lies in the first pixel of its image may be an object.
_MOST_WITHIN_ONE = 0.01
_OTHER_AREA = "area is 0, or larger than its box: APs, APm, APl and keypoints are evaluated by it"
_RENUMBERED = "annotation id that is not a number above 0, numbered anew (pycocotools takes 0 for no match)"


def check_meaning(content: CocoFile) -> None:
    """Add to the errors, warnings and changes of a file what its records have wrong together."""
    with without_collection():
        for key in KEYS:
            _check_ids(content, key)
        _check_names(content)
        linked, within_one = _linked(content), Findings()
        for first in range(0, len(linked), _PART):
            if first % _REPORTED == 0 and len(linked) > _REPORTED:
                logger.info("Checking annotations: %d of %d", first, len(linked))
            _check_objects(content, linked[first : first + _PART], within_one)
        is_mistake = within_one.counts[WITHIN_ONE] > _MOST_WITHIN_ONE * len(linked)
        (content.errors if is_mistake else content.warnings).update(within_one)
        _number_annotations(content)


def _check_ids(content: CocoFile, key: str) -> None:
    records: list[Record] = getattr(content, key)
    seen: set[Any] = set()
    for record in records:
        if record["id"] in seen:
            content.errors.add("id is not unique", Example(content, key, record))
        seen.add(record["id"])
    is_text = {isinstance(i, str) for i in seen}
    if len(is_text) > 1 and key != "annotations":
        numbers, texts = (next(r["id"] for r in records if isinstance(r["id"], str) == kind) for kind in (False, True))
        content.errors.add(f"ids of {key} are partly numbers and partly text", f"{numbers!r} and {texts!r}")


def _check_names(content: CocoFile) -> None:
    for name, count in Counter(category["name"] for category in content.categories).items():
        if count > 1:
            content.errors.add("category name is not unique", repr(name))
        if not is_plain_text(name):
            content.errors.add("category name is blank or has control characters", repr(name))
    for name in {name for category in content.categories for name in category.get("keypoints") or ()}:
        if not is_plain_text(name):
            content.errors.add("keypoint name is blank or has control characters", repr(name))
    seen: set[str] = set()
    for image in content.images:
        name = os.path.normpath(image["file_name"])
        if name in seen:
            content.warnings.add("image is listed more than once", repr(image["file_name"]))
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            content.warnings.add("image lies outside the folder of images", repr(image["file_name"]))
        seen.add(name)


def _linked(content: CocoFile) -> list[tuple[Record, Record]]:
    """The annotations of which image and category are known, each with its image."""
    images = {image["id"]: image for image in content.images}
    categories = {category["id"] for category in content.categories}
    linked = []
    for annotation in content.annotations:
        image, category = images.get(annotation["image_id"]), annotation["category_id"]
        if image is None and ("images", annotation["image_id"]) not in content.left_out:
            _add_unknown(content, annotation, "image", "images", images)
        if category not in categories and ("categories", category) not in content.left_out:
            _add_unknown(content, annotation, "category", "categories", categories)
        if annotation.pop("ignore", None):
            content.errors.add('"ignore" is not supported by Detectron2', _example(content, annotation))
        if image is not None:
            linked.append((annotation, image))
    return linked


def _add_unknown(content: CocoFile, annotation: Record, what: str, key: str, known: Container[Any]) -> None:
    """Add that there is no image, or category, of an annotation's id; if it is one of another type, which."""
    value = annotation[f"{what}_id"]
    meant = str(value) if isinstance(value, int) else int(value) if re.fullmatch(r"-?\d{1,18}", value) else None
    if meant is None or meant not in known:
        content.errors.add(f"{what} id is not among the {key}", _example(content, annotation, value))
        return
    types = ("text", "numbers") if isinstance(value, str) else ("a number", "text")
    kind = f"{what}_id is {types[0]}, where the ids of {key} are {types[1]}"
    content.errors.add(kind, Example(content, "annotations", annotation, said=f"write {meant!r} in place of {value!r}"))


def _check_objects(content: CocoFile, linked: Sequence[tuple[Record, Record]], within_one: Findings) -> None:
    for annotation, image in linked:
        if annotation.get("keypoints"):
            _check_keypoints(content, annotation, image["height"], image["width"], within_one)
    fine = [pair for pair in linked if _check_object(content, pair[0], pair[1]["height"], pair[1]["width"])]
    annotations = [annotation for annotation, _ in fine]
    sizes = np.array([(image["width"], image["height"]) for _, image in fine], dtype=np.float64).reshape(-1, 2)
    found = check_geometry(annotations, sizes)
    for findings, kinds in ((content.errors, found.errors), (within_one, found.within_one)):
        for kind, flags in kinds.items():
            for i in np.flatnonzero(flags).tolist():
                findings.add(kind, Example(content, "annotations", annotations[i], value=annotations[i]["bbox"]))
    for what, flags in found.no_area.items():
        for i in np.flatnonzero(flags).tolist():
            annotations[i].setdefault("no_area", what)


def _check_object(content: CocoFile, annotation: Record, height: int, width: int) -> bool:
    """Add what is wrong with area and mask; whether the mask is as it should be, so that it can be looked into."""
    area, mask = annotation.get("area"), annotation.get("segmentation")
    if area is not None and area > (height + 2 * TOLERANCE) * (width + 2 * TOLERANCE):
        content.errors.add("area is larger than its image", _example(content, annotation, area))
    elif area is not None:
        _, _, box_width, box_height = annotation["bbox"]
        if area > (box_height + 2 * TOLERANCE) * (box_width + 2 * TOLERANCE) or area == 0 < box_height * box_width - 1:
            content.warnings.add(_OTHER_AREA, _example(content, annotation, area))
    if isinstance(mask, dict):
        if problem := rle_problem(mask, height, width):
            content.errors.add(problem, _example(content, annotation))
            return False
    elif mask and min(map(len, mask)) < 6:
        content.warnings.add("polygon of fewer than 3 points beside others", _example(content, annotation))
        annotation["segmentation"] = [polygon for polygon in mask if len(polygon) >= 6]
    return True


def _check_keypoints(content: CocoFile, annotation: Record, height: int, width: int, within_one: Findings) -> None:
    keypoints, example = annotation["keypoints"], _example(content, annotation)
    if len(keypoints) % 3:
        example = _example(content, annotation, len(keypoints))
        content.errors.add("number of values of keypoints is not a multiple of 3 (x, y, visibility of each)", example)
        return
    points = np.array(keypoints).reshape(-1, 3)
    is_labeled = points[:, 2] > 0
    xy, count = points[is_labeled, :2], int(is_labeled.sum())
    if not np.isin(points[:, 2], (0, 1, 2)).all():
        content.errors.add("visibility of a keypoint is neither 0, 1 nor 2", example)
    if ((xy < -TOLERANCE) | (xy > (width + TOLERANCE, height + TOLERANCE))).any():
        content.errors.add("keypoint outside its image", example)
    low, size = np.array(annotation["bbox"]).reshape(2, 2)
    if count and not ((xy >= low - TOLERANCE) & (xy <= low + size + TOLERANCE)).all(axis=1).any():
        content.warnings.add("keypoints all outside their box, from which none is learned", example)
    if count > 1 and xy.max() <= 1 and min(height, width) > 2:
        within_one.add(WITHIN_ONE, example)
    stated = annotation.get("num_keypoints")
    if stated is None:
        content.changes.add("no num_keypoints, counted anew", example)
    elif stated != count:
        content.errors.add("num_keypoints is not the number of keypoints with visibility 1 or 2", example)
    annotation["num_keypoints"] = count


def _number_annotations(content: CocoFile) -> None:
    """Give annotations ids that pycocotools can evaluate with. Nothing refers to them."""
    odd = [a for a in content.annotations if isinstance(a["id"], str) or a["id"] < 1]
    for annotation in odd:
        content.changes.add(_RENUMBERED, Example(content, "annotations", dict(annotation)))
    if odd:
        for number, annotation in enumerate(content.annotations, start=1):
            annotation["id"] = number


def _example(content: CocoFile, annotation: Record, value: Any = ...) -> Example:
    return Example(content, "annotations", annotation, value=value)
