"""Images with objects, as a preparation has read them, and their annotation files in COCO format."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..checks.image_files import map_files, size_in_words
from ..coco.geometry import TOLERANCE
from ..findings import Findings
from .folders import raise_findings, write_json
from .sayings import not_text

logger = logging.getLogger(__name__)

_DECIMALS = 3  # of a pixel

Corners = Sequence[float]  # x1, y1, x2, y2 in pixels from the upper left corner of the image


@dataclass
class ReadImage:
    """One image of a download.

    Attributes:
        is_turned: EXIF data exchange width and height of what is stored.
        objects: COCO annotations, still without ids, each with its class's name as ``category``.
        stratum: its kind, where splits are to be alike in it.
        problems: what is wrong with its files: the kind, and the file.
        left_out: what is left out of its objects: the kind, and the file.
        file_name: in the folder that is written, with ``/``; that of ``path`` by default.
        save: writes the image to a path; by default ``path`` is copied.
    """

    path: Path
    size: tuple[int, int] = (0, 0)  # width, height
    is_turned: bool = False
    objects: list[dict[str, Any]] = field(default_factory=list)
    stratum: tuple[Any, ...] = ()
    problems: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    file_name: str = ""
    save: Callable[[Path], Any] | None = None

    def __post_init__(self) -> None:
        self.file_name = self.file_name or self.path.name

    def add(
        self,
        category: str,
        corners: Corners,
        where: str,
        *,
        polygons: Sequence[np.ndarray] = (),
        said: str = "",
        iscrowd: bool = False,
    ) -> None:
        """Add an object, clipped to the image.

        Args:
            where: its file, and its place in it.
            polygons: its outline, (N, 2) each in pixels; none where it is a box only.
            said: what stands there; the corners by default.
        """
        (x1, y1, x2, y2), (width, height) = corners, self.size
        if not min(x1, y1, width - x2, height - y2) >= -TOLERANCE:
            said = said or ", ".join(f"{x:g}" for x in corners)
            self.problems.append(("box reaches outside its image", f"{where} ({said}) of {size_in_words(self.size)}"))
            return
        x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
        clipped = [np.clip(polygon, 0, self.size) for polygon in polygons]
        area = sum(map(_area, clipped)) if polygons else (x2 - x1) * (y2 - y1)
        if x1 >= x2 or y1 >= y2 or not area:
            self.left_out.append(("object of one point or line, as a slip of the mouse draws it", where))
            return
        box = [round(float(x), _DECIMALS) for x in (x1, y1, x2 - x1, y2 - y1)]
        annotation = {"category": category, "bbox": box, "area": round(float(area), _DECIMALS), "iscrowd": int(iscrowd)}
        if polygons:
            annotation["segmentation"] = [polygon.round(_DECIMALS).ravel().tolist() for polygon in clipped]
        self.objects.append(annotation)

    def add_mask(self, category: str, mask: np.ndarray, where: str) -> None:
        """Add an object of a mask (H, W), which becomes a compressed RLE."""
        if not mask.any():
            self.left_out.append(("mask is empty", where))
            return
        self.objects.append(mask_annotation(category, mask))


def mask_annotation(category: str, mask: np.ndarray) -> dict[str, Any]:
    """An object of a mask (H, W) that is not empty."""
    import pycocotools.mask as mask_util

    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    segmentation = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
    area, box = int(mask_util.area(rle)), mask_util.toBbox(rle).tolist()
    return {"category": category, "segmentation": segmentation, "area": area, "bbox": box, "iscrowd": 0}


def _area(polygon: np.ndarray) -> float:
    """Of the polygon (N, 2), by the shoelace formula."""
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def read_all(read: Callable[[str], ReadImage], names: Sequence[str], folder: Path, remedy: str) -> dict[str, ReadImage]:
    """Read the image of each name, and warn of what is left out.

    Raises DatasetError with everything that is wrong.
    """
    images = dict(zip(names, map_files(read, names, "reading annotations")))
    problems, left_out = Findings(), Findings()
    for image in images.values():
        image.problems += not_text(image.path, [image.file_name, *(read["category"] for read in image.objects)])
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
    named = [images[name] for names in splits.values() for name in names]
    for parent in {(folder / "images" / image.file_name).parent for image in named}:
        parent.mkdir(parents=True, exist_ok=True)
    for _ in map_files(partial(_save, folder / "images"), named, "copying images"):
        pass
    for split, names in splits.items():
        content = _coco_content([images[name] for name in names], classes)
        write_json(folder / "annotations" / f"instances_{split}.json", content)


def _save(folder: Path, image: ReadImage) -> None:
    save = image.save or partial(shutil.copyfile, image.path)
    save(folder / image.file_name)


def _coco_content(images: Sequence[ReadImage], classes: Sequence[str]) -> dict[str, Any]:
    category_ids = {name: number for number, name in enumerate(classes, start=1)}
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(images, start=1):
        width, height = image.size
        records.append({"id": number, "file_name": image.file_name, "width": width, "height": height})
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
