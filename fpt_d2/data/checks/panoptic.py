"""What Panoptic FPN reads besides an annotation file: labels for its semantic head, and segments to evaluate with."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import Metadata
from detectron2.utils.file_io import PathManager
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ...errors import DatasetError
from ...paths import read_file, why
from ..coco import CocoFile
from ..coco.schema import Record
from ..findings import Findings
from ..labels import IGNORE_LABEL, read_labels
from .coco import to_open
from .image_files import ImageFinding, examine_image, map_files
from .sem_seg import label_findings


class _Segment(TypedDict):
    id: int
    category_id: int


class _Annotation(TypedDict):
    image_id: int | str
    file_name: str
    segments_info: list[_Segment]


class _Category(TypedDict):
    id: int
    isthing: bool


class _Panoptic(TypedDict):
    annotations: list[_Annotation]
    categories: list[_Category]


_SCHEMA = TypeAdapter(_Panoptic)


def check_panoptic(metadata: Metadata, content: CocoFile, *, is_evaluated: bool) -> Findings:
    """What is wrong with the labels, and if it is evaluated with the segments, of the images of a file.

    Of very many images some are opened.
    """
    errors, chosen = Findings(), to_open(content.images)
    if root := metadata.get("sem_seg_root"):
        examine = partial(_examine_labels, metadata, root)
        for found in map_files(examine, chosen, "checking semantic masks"):
            for finding in found:
                errors.add(finding.kind, finding.example)
    if is_evaluated and metadata.get("panoptic_json") and metadata.get("panoptic_root"):
        try:
            _check_segments(metadata, content, chosen, errors)
        except (OSError, ValueError, RecursionError) as error:
            errors.add("file of panoptic segments cannot be read", f"{metadata.panoptic_json} ({_in_words(error)})")
    return errors


def _examine_labels(metadata: Metadata, root: str, image: Record) -> list[ImageFinding]:
    path = os.path.join(root, f"{Path(image['file_name']).stem}.png")
    if not PathManager.exists(path):
        return [ImageFinding("semantic mask does not exist", path)]
    try:
        labels = read_labels(path)
    except DatasetError as error:
        return [ImageFinding("mask is not a label image", str(error))]
    if labels.shape != (image["height"], image["width"]):
        sizes = f"{path} is {labels.shape[1]}x{labels.shape[0]}, not {image['width']}x{image['height']}"
        return [ImageFinding("mask has another size than its image", sizes)]
    found, _ = label_findings(path, labels, len(metadata.stuff_classes), metadata.get("ignore_label", IGNORE_LABEL))
    return [finding for finding in found if finding.is_error]


def _check_segments(metadata: Metadata, content: CocoFile, chosen: list[Record], errors: Findings) -> None:
    """Raises OSError or ValueError if the file is not there, not JSON or not of COCO's form."""
    panoptic = _SCHEMA.validate_python(json.loads(read_file(metadata.panoptic_json)))
    annotations = {annotation["image_id"]: annotation for annotation in panoptic["annotations"]}
    categories = {category["id"] for category in panoptic["categories"]}
    for annotation in annotations.values():
        for segment in annotation["segments_info"]:
            if segment["category_id"] not in categories:
                example = f"{segment['category_id']} in {annotation['file_name']!r}"
                errors.add("category of a panoptic segment is not among the categories", example)
    for image in content.images:
        if image["id"] not in annotations:
            errors.add("image without panoptic segments", repr(image["file_name"]))
    known = [(annotations[image["id"]], image) for image in chosen if image["id"] in annotations]
    pictures = [(annotation["file_name"], (image["width"], image["height"])) for annotation, image in known]
    for found in map_files(partial(_examine_picture, metadata.panoptic_root), pictures, "checking panoptic segments"):
        for finding in found:
            errors.add(finding.kind, finding.example)


def _examine_picture(root: str, named: tuple[str, tuple[int, int]]) -> list[ImageFinding]:
    found = examine_image(os.path.join(root, named[0]), *named, mismatch="another size than their image")
    return [finding._replace(kind=f"panoptic segments: {finding.kind}") for finding in found if finding.is_error]


def _in_words(error: Any) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return why(error)
