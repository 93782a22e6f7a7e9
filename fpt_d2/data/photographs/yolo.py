"""Boxes and polygons in YOLO's format, a text file for each image, to COCO's.

The library reads a line's class and box. Polygons come from the line itself: the library makes masks of whole pixels
out of them, which take a byte for each pixel of the image and object.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DatasetError, printable
from ...paths import read_file, why
from ..findings import excerpt
from .converting import Layout, convert, sample_reader
from .folders import read_lines
from .instances import ReadImage
from .library import load_reader
from .samples import Sample, check_kind, find_samples, splits_by_folder
from .yolo_yaml import check_names, read_yaml

logger = logging.getLogger(__name__)

_NOT_LABELS = re.compile(r"(classes|names|train|trainval|val|valid|test|readme.*|requirements)\.txt", re.IGNORECASE)
_NAME_FILES = ("classes.txt", "names.txt", "obj.names", "labels/classes.txt")
_BEYOND = 1.5  # numbers above it are not shares of a side, nor those of a box that reaches a little outside


def prepare_yolo(
    source: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val_share: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Convert a data set in YOLO's format, as :func:`.converting.convert` describes.

    An image without a label file has no objects, as YOLO takes it.

    Args:
        source: images with label files beside them or in folders of the same names. ``data.yaml``, where it is there,
            has classes and splits; otherwise ``classes.txt`` and folders train, val and test.
        classes: by their numbers in the label files.

    Raises:
        UserError: the library is not installed.
    """
    read_line = load_reader("yolo", "yolo_annotations_to_detections")
    find = partial(_find, read_line=read_line, names=classes, is_split=val_share is not None)
    return convert(source, root, "YOLO labels", find, val_share=val_share, seed=seed, overwrite=overwrite)


def _find(source: Path, *, read_line: Callable[..., Any], names: Sequence[str] | None, is_split: bool) -> Layout:
    check_kind(source, "yolo", "label files, .txt beside images or in a folder labels")
    found = find_samples(source, ".txt")
    samples = {name: sample for name, sample in found.items() if not _is_other(sample)}
    if empty := [sample.images[0] for sample in samples.values() if not sample.labels]:
        example = printable(str(empty[0]))
        logger.warning("%d images without a label file have no objects, such as %s", len(empty), example)
    description = read_yaml(source)
    classes = names or description.classes() or _listed_classes(source)
    splits = {} if is_split else description.splits(samples)
    where = description.file if splits else source
    splits = splits or splits_by_folder(list(samples))
    fill = partial(_fill, read_line=read_line, classes=classes, num_extra=description.num_keypoint_values())
    return Layout(list(samples), sample_reader(samples, fill), splits, where, classes)


def _is_other(sample: Sample) -> bool:
    """Whether text files are not labels, by their names."""
    return not sample.images and all(_NOT_LABELS.fullmatch(path.name) for path in sample.labels)


def _listed_classes(source: Path) -> list[str]:
    for file in (source / name for name in _NAME_FILES):
        if file.exists():
            check_names(classes := read_lines(file), file)
            return classes
    raise DatasetError(f"{source} does not name its classes: add names to data.yaml, or set --classes A,B,...")


def _fill(
    sample: Sample, image: ReadImage, *, read_line: Callable[..., Any], classes: Sequence[str], num_extra: int
) -> None:
    for file in sample.labels:
        try:
            lines = read_file(file).decode("utf-8-sig").splitlines()
        except OSError as error:
            image.problems.append(("label file cannot be read", f"{file} ({why(error)})"))
            continue
        except ValueError as error:
            image.problems.append(("label file is not text", f"{file} ({error})"))
            continue
        for number, line in enumerate(lines, start=1):
            words = line.split()
            if num_extra and len(words) == 5 + num_extra:
                words = words[:5]
                image.left_out.append(("keypoints, which are not converted", f"{file} line {number}"))
            if words:
                _add_object(image, words, f"{file} line {number}", read_line, classes)


def _add_object(
    image: ReadImage, words: Sequence[str], where: str, read_line: Callable[..., Any], classes: Sequence[str]
) -> None:
    line, is_polygon = " ".join(words), len(words) > 6  # the sixth number beside a box is its score
    try:
        read = read_line([line], image.size, with_masks=False)
    except (ValueError, OverflowError) as error:
        image.problems.append(("line is not a class with a box or polygon", f"{where} ({excerpt(error)})"))
        return
    said, number = excerpt(line), int(read.class_id[0])
    if is_polygon and len(words) % 2 == 0:
        image.problems.append(("polygon has an odd number of coordinates", f"{where} ({said})"))
    elif not 0 <= number < len(classes):
        image.problems.append((f"class is not one of 0 to {len(classes) - 1}, which have names", f"{where} ({said})"))
    elif max(map(float, words[1 : len(words) if is_polygon else 5])) > _BEYOND:
        image.problems.append(("numbers are not from 0 to 1, shares of the image's sides", f"{where} ({said})"))
    else:
        points = np.array(words[1:], dtype=float).reshape(-1, 2) * image.size if is_polygon else None
        polygons = [] if points is None else [points]
        if len(words) == 6:
            image.left_out.append(("sixth number beside a box, taken for the score of a prediction", where))
        image.add(classes[number], read.xyxy[0].tolist(), where, polygons=polygons, said=said)
