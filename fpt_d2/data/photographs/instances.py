"""Images with objects, as a preparation has read them, and their annotation files in COCO format."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checks.findings import Findings
from ..checks.image_files import map_files
from .folders import copy_files, raise_findings, write_json

logger = logging.getLogger(__name__)


@dataclass
class ReadImage:
    """One image of a download.

    Attributes:
        objects: COCO annotations, still without ids, each with its class's name as ``category``.
        stratum: its kind, where splits are to be alike in it.
        problems: what is wrong with its files: the kind, and the file.
        left_out: what is left out of its objects: the kind, and the file.
    """

    path: Path
    size: tuple[int, int] = (0, 0)  # width, height
    objects: list[dict[str, Any]] = field(default_factory=list)
    stratum: tuple[Any, ...] = ()
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)


def box_annotation(category: str, box: Sequence[float], *, iscrowd: bool = False) -> dict[str, Any]:
    """An object of which there is a box only: x, y, width, height in pixels."""
    return {"category": category, "bbox": list(box), "area": box[2] * box[3], "iscrowd": int(iscrowd)}


def read_all(read: Callable[[str], ReadImage], names: Sequence[str], folder: Path, remedy: str) -> dict[str, ReadImage]:
    """Read the image of each name, and warn of what is left out.

    Raises DatasetError with everything that is wrong.
    """
    images = dict(zip(names, map_files(read, names, "reading annotations")))
    problems, left_out = Findings(), Findings()
    for image in images.values():
        for findings, found in ((problems, image.problems), (left_out, image.left_out)):
            for finding in found:
                findings.add(*finding)
    raise_findings(problems, f"{folder} is not in order", remedy)
    for line in left_out.lines():
        logger.warning("Left out: %s", line)
    return images


def write_instances(
    folder: Path, images: Mapping[str, ReadImage], splits: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> None:
    """Copy the images of all splits to ``images`` and write ``annotations/instances_<split>.json``."""
    (folder / "images").mkdir()
    named = [images[name].path for names in splits.values() for name in names]
    copy_files([(path, folder / "images" / path.name) for path in named])
    for split, names in splits.items():
        content = _coco_content([images[name] for name in names], classes)
        write_json(folder / "annotations" / f"instances_{split}.json", content)


def _coco_content(images: Sequence[ReadImage], classes: Sequence[str]) -> dict[str, Any]:
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        width, height = image.size
        records.append({"id": number, "file_name": image.path.name, "width": width, "height": height})
        for read in image.objects:
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": category_ids[read["category"]]}
            annotations.append(ids | {key: value for key, value in read.items() if key != "category"})
    categories = [{"id": number, "name": name} for name, number in category_ids.items()]
    return {"images": records, "annotations": annotations, "categories": categories}


def count(images: Mapping[str, ReadImage], splits: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Number of images and objects of each split."""
    return {
        split: {"images": len(names), "objects": sum(len(images[name].objects) for name in names)}
        for split, names in splits.items()
    }
