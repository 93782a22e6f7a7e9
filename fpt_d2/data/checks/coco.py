"""A check of annotations in COCO format that finds everything that is wrong with them at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from detectron2.utils.file_io import PathManager

from .findings import Findings
from .image_files import ImageFinding, examine_image, map_files

# A box may reach beyond its image by rounding, and Detectron2 clips it. Much more than that is a mistake, most often
# (x1, y1, x2, y2) where COCO has (x, y, width, height).
_BOX_TOLERANCE = 2.0  # pixels
# Where there are more, as in COCO, every second, third, ... image is opened, which takes seconds, or a minute on a
# slow disk.
_MAX_OPENED = 20_000

Record = dict[str, Any]

# What pycocotools reads from every annotation to evaluate with it and training does not, and what to write there.
EVALUATED_FIELDS = {
    "area": "add the pixels of the object, or width times height of its box",
    "iscrowd": "add 0, or 1 for a crowd",
    "segmentation": "add its polygons or RLE, or set MODEL.MASK_ON False",
    "num_keypoints": "add the number of keypoints that are labelled",
}


class CocoCheck:
    """Check what an annotation file holds.

    Attributes:
        errors: what makes training or evaluation fail, or learn nonsense.
        warnings: what Detectron2 leaves out by itself; COCO has some.
    """

    def __init__(
        self,
        content: Any,
        image_root: str,
        *,
        is_train: bool,
        mask_format: str | None,
        evaluated_fields: Sequence[str] = (),
        max_size: int | None = None,
    ) -> None:
        """
        Args:
            content: the file as `json.load` returns it.
            image_root: folder of the images.
            is_train: there must be annotations; a test set may have none, as COCO's test-dev.
            mask_format: ``INPUT.MASK_FORMAT`` where masks are trained, else None.
            evaluated_fields: keys of :data:`EVALUATED_FIELDS` that an evaluation reads from every annotation.
            max_size: what the long side of an image is scaled to at most; None where that is not known.
        """
        self.errors, self.warnings = Findings(), Findings()
        self._categories: dict[Any, str] = {}
        self._mask_format, self._evaluated_fields, self._max_size = mask_format, evaluated_fields, max_size
        self._sizes: dict[Any, tuple[float, float] | None] = {}  # (height, width) by image id, None where improper
        if not isinstance(content, dict):
            self.errors.add("not an object with images, annotations and categories", f"but {json.dumps(content)[:40]}")
            return
        for key in ["images", "categories"] + ["annotations"] * is_train:
            if not content.get(key):
                self.errors.add("top-level key missing or empty", key)
        for category in self._records(content, "categories", ("id", "name")):
            self._categories[category["id"]] = category["name"]
        self._check_images(content, image_root)
        self._check_annotations(content)

    def category_names(self) -> list[str]:
        """In the order of their ids, which is that of the model's classes."""
        return [self._categories[i] for i in sorted(self._categories, key=lambda i: (isinstance(i, str), i))]

    def _records(self, content: Record, key: str, required: tuple[str, ...]) -> Iterator[Record]:
        """The well-formed records of a top-level key."""
        records, seen = content.get(key) or [], set()
        if not isinstance(records, list):
            self.errors.add("top-level key is not a list", key)
            return
        for position, record in enumerate(records):
            if not isinstance(record, dict) or not all(field in record for field in required):
                self.errors.add(f"record without one of {', '.join(required)}", f"{key}[{position}]")
            elif not all(isinstance(record[f], (int, str)) for f in required if f.endswith("id")):
                self.errors.add("id is neither a number nor a string", f"{key}[{position}]")
            else:
                if record["id"] in seen:
                    self.errors.add("id is not unique", f"{key} {record['id']}")
                seen.add(record["id"])
                yield record

    def _check_images(self, content: Record, image_root: str) -> None:
        sizes: dict[str, tuple[float, float] | None] = {}  # (width, height) by file name, None where improper
        for image in self._records(content, "images", ("id", "file_name", "height", "width")):
            height, width = image["height"], image["width"]
            proper = isinstance(height, (int, float)) and isinstance(width, (int, float)) and min(height, width) > 0
            self._sizes[image["id"]] = (height, width) if proper else None
            sizes[str(image["file_name"])] = (width, height) if proper else None
            if not proper:
                self.errors.add("image height or width is not a positive number", f"image {image['id']}")
        if not PathManager.isdir(image_root):
            self.errors.add("image folder does not exist", image_root)
            return
        for name in list(_missing_files(image_root, sizes)):
            self.errors.add("image file does not exist", name)
            del sizes[name]
        if not os.path.isdir(image_root):  # of another machine, from which each image would be fetched
            return
        proper_sizes = [(name, size) for name, size in sizes.items() if size]
        chosen = proper_sizes[:: math.ceil(len(proper_sizes) / _MAX_OPENED) or 1]
        examine = partial(_examine, image_root, self._max_size)
        for found in map_files(examine, chosen, f"checking {len(chosen)} of {len(proper_sizes)} images"):
            for kind, example, is_error in found:
                (self.errors if is_error else self.warnings).add(kind, example)

    def _check_annotations(self, content: Record) -> None:
        for annotation in self._records(content, "annotations", ("id", "image_id", "category_id", "bbox")):
            example = f"annotation {annotation['id']}"
            if annotation["category_id"] not in self._categories:
                self.errors.add("category id is not among the categories", f"{example} ({annotation['category_id']})")
            if annotation.get("ignore"):
                self.errors.add('"ignore" is not supported by Detectron2', example)
            for field in self._evaluated_fields:
                if annotation.get(field) in (None, []):
                    self.errors.add(f"no {field}, which the evaluation needs: {EVALUATED_FIELDS[field]}", example)
            if annotation["image_id"] not in self._sizes:
                self.errors.add("image id is not among the images", f"{example} ({annotation['image_id']})")
            elif size := self._sizes[annotation["image_id"]]:
                self._check_box(annotation["bbox"], size, example)
                self._check_segmentation(annotation, size, example)

    def _check_box(self, box: Any, size: tuple[float, float], example: str) -> None:
        try:
            x, y, w, h = box
            proper = math.isfinite(x + y + w + h)
        except (TypeError, ValueError):
            proper = False
        if not proper:
            self.errors.add("box is not four numbers", example)
        elif w < 0 or h < 0:
            self.errors.add("box with a negative size", f"{example} {box}")
        elif min(x, y, size[1] - x - w, size[0] - y - h) < -_BOX_TOLERANCE:
            self.errors.add("box reaches outside its image (COCO's boxes are x, y, width, height)", f"{example} {box}")
        elif w == 0 or h == 0:
            self.warnings.add("box of no area", f"{example} {box}")

    def _check_segmentation(self, annotation: Record, size: tuple[float, float], example: str) -> None:
        segmentation, is_crowd = annotation.get("segmentation"), annotation.get("iscrowd")
        if isinstance(segmentation, dict):
            if not _is_rle(segmentation, size):
                self.errors.add("RLE does not fit the size of its image", example)
            if self._mask_format == "polygon" and not is_crowd:
                self.errors.add("RLE needs INPUT.MASK_FORMAT bitmask, which is polygon", example)
        elif isinstance(segmentation, list) and segmentation:
            self._check_polygons(segmentation, example)
        elif segmentation:
            self.errors.add("segmentation is neither polygons nor RLE", example)
        elif self._mask_format and not is_crowd:
            self.errors.add("no segmentation, which MODEL.MASK_ON needs", example)

    def _check_polygons(self, polygons: list[Any], example: str) -> None:
        lengths = [len(polygon) if isinstance(polygon, list) else -1 for polygon in polygons]
        if min(lengths) < 0:
            self.errors.add("segmentation is not a list of polygons [[x1, y1, ...], ...]", example)
        elif any(length % 2 for length in lengths):
            self.errors.add("polygon with an odd number of coordinates", example)
        elif min(lengths) == 0 or max(lengths) < 6:
            self.errors.add("polygon is empty or has fewer than 3 points", example)
        elif min(lengths) < 6:
            self.warnings.add("polygon of fewer than 3 points beside others", example)


def _missing_files(image_root: str, names: Iterable[str]) -> Iterator[str]:
    """Those of ``names`` that are not under ``image_root``, by listing each folder once."""
    listings: dict[str, set[str]] = {}
    for name in names:
        folder, base = os.path.split(os.path.join(image_root, name))
        if folder not in listings:
            listings[folder] = set(PathManager.ls(folder)) if PathManager.isdir(folder) else set()
        if base not in listings[folder]:
            yield name


def _examine(image_root: str, max_size: int | None, named: tuple[str, tuple[float, float]]) -> list[ImageFinding]:
    return examine_image(os.path.join(image_root, named[0]), *named, max_size=max_size)


def _is_rle(segmentation: Record, size: tuple[float, float]) -> bool:
    """Whether an RLE is of the image's (height, width); uncompressed runs can also be added up."""
    counts = segmentation.get("counts")
    if list(segmentation.get("size") or ()) != list(size):
        return False
    if isinstance(counts, list):
        return all(isinstance(run, int) and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]
    return isinstance(counts, str)
