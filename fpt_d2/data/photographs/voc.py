"""Boxes in Pascal VOC's format, an XML file for each image, to COCO's.

By our own reader: that of the library that reads YOLO's and LabelMe's (supervision 0.31) loses which objects are
difficult, makes masks of whole pixels out of polygons, takes an image without an annotation file for one without
objects, and stops at the first file that is wrong without its name.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from reprlib import repr as short
from xml.etree import ElementTree

import numpy as np

from ...errors import DatasetError
from ...paths import read_file, why
from ..images import IMAGE_SUFFIXES
from .converting import Layout, convert, sample_reader
from .folders import read_lines
from .instances import ReadImage
from .samples import Sample, check_kind, find_samples, splits_by_folder
from .sayings import size_problem

_SPLITS = ("train", "val", "test")
_IS_DIFFICULT, _IS_NOT = ("1", "true", "yes"), ("0", "false", "no")
_DIFFICULT = "object marked as difficult, which becomes a crowd: it is neither trained nor evaluated"


def prepare_voc(
    source: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val_share: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Convert a data set in VOC format, as :func:`.converting.convert` describes.

    What the files mark as difficult becomes a crowd, which is neither trained nor evaluated.

    Args:
        source: a folder with ``Annotations`` and ``JPEGImages``, one that holds such a folder, or one of images with
            their XML files beside them or in folders of the same names. Splits are those of
            ``ImageSets/Main/{train,val,test}.txt``, or of folders train, val and test.
    """
    find, kind = partial(_find, is_split=val_share is not None), "boxes in VOC format"
    return convert(source, root, kind, find, classes=classes, val_share=val_share, seed=seed, overwrite=overwrite)


def _find(source: Path, is_split: bool) -> Layout:
    folder = _find_folder(source)
    check_kind(folder, "voc", "XML files in a folder Annotations or beside images")
    kinds = [folder / "Annotations", folder / "JPEGImages"] if _is_voc(folder) else None
    samples = find_samples(folder, ".xml", kinds)
    lists = folder / "ImageSets" / "Main"
    splits = {} if is_split else _read_lists(lists)
    for name in {name for names in splits.values() for name in names}.difference(samples):
        samples[name] = Sample()
    where, splits = (lists, splits) if splits else (folder, splits_by_folder(list(samples)))
    return Layout(list(samples), sample_reader(samples, _fill), splits, where)


def _is_voc(folder: Path) -> bool:
    return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()


def _find_folder(source: Path) -> Path:
    inside = sorted(path for path in source.iterdir() if path.is_dir() and _is_voc(path))
    if _is_voc(source) or not inside:
        return source
    if len(inside) > 1:
        raise DatasetError(f"{source} holds several sets, {', '.join(p.name for p in inside)}: name the folder of one")
    return inside[0]


def _read_lists(folder: Path) -> dict[str, list[str]]:
    """Names of the images of each split; none where there are no lists."""
    files = {split: folder / f"{split}.txt" for split in _SPLITS}
    return {split: _read_list(file) for split, file in files.items() if file.exists()}


def _read_list(file: Path) -> list[str]:
    names = read_lines(file)
    # Only the suffixes of images: names may have other dots.
    return list(dict.fromkeys(n[: n.rindex(".")] if n.lower().endswith(IMAGE_SUFFIXES) else n for n in names))


def _fill(sample: Sample, image: ReadImage) -> None:
    if not sample.labels:
        image.problems.append(("annotation file is missing", f"that of {image.path}"))
        return
    file = sample.labels[0]
    try:
        annotation = ElementTree.parse(io.BytesIO(read_file(file))).getroot()
    except OSError as error:
        image.problems.append(("annotation file cannot be read", f"{file} ({why(error)})"))
        return
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: of an odd encoding
        image.problems.append(("annotation file is not XML", f"{file} ({error})"))
        return
    image.problems += _file_problems(annotation, image, file)
    for number, element in enumerate(annotation.iterfind("object"), start=1):
        _add_object(image, element, f"{file} object {number}")


def _file_problems(annotation: ElementTree.Element, image: ReadImage, file: Path) -> Iterator[tuple[str, str]]:
    if annotation.tag != "annotation":
        yield "XML file is not a VOC annotation", f"{file} (<{annotation.tag}>)"
    size = annotation.find("size")
    said = [] if size is None else list(map(size.findtext, ("width", "height")))
    yield from size_problem(file, said, image.path, image.size, image.is_turned)
    objects = {id(element) for element in annotation.iterfind("object")}
    for element in annotation.iter():
        if element.tag.lower().rpartition("}")[2] == "object" and id(element) not in objects:
            yield "object is not directly in <annotation>, or not called <object>", f"{file} (<{element.tag}>)"


def _add_object(image: ReadImage, element: ElementTree.Element, where: str) -> None:
    name = (element.findtext("name") or "").strip()
    box = _numbers(element.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
    if not name or box is None:
        image.problems.append(("object has no name or no four numbers in bndbox", where))
        return
    polygons = [_points(polygon) for polygon in element.iterfind("polygon")]
    if not all(len(points) > 2 for points in polygons):
        image.problems.append(("polygon is not three or more points of two numbers", where))
        return
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])  # some tools write corners as they were drawn
    # VOC's first pixel is 1, and its last is that of the object; but one pixel alone is a slip of the mouse.
    first = (left - (left < right), top - (top < bottom))
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult.lower() not in (*_IS_DIFFICULT, *_IS_NOT):
        image.problems.append(("difficult is neither 0 nor 1", f"{where} ({short(difficult)})"))
        return
    is_difficult = difficult.lower() in _IS_DIFFICULT
    if is_difficult:
        image.left_out.append((_DIFFICULT, where))
    said = ", ".join(f"{x:g}" for x in box)
    image.add(name, (*first, right, bottom), where, polygons=polygons, said=said, iscrowd=is_difficult)


def _points(polygon: ElementTree.Element) -> np.ndarray:
    """The points (N, 2) of <x1>, <y1>, <x2>, ..., which are the middles of pixels; none if these are not numbers."""
    numbers = _numbers(polygon, [child.tag for child in polygon]) or []
    return np.array([] if len(numbers) % 2 else numbers).reshape(-1, 2) - 0.5


def _numbers(element: ElementTree.Element | None, tags: Sequence[str]) -> list[float] | None:
    """The numbers that the elements of these tags hold; None unless all do."""
    try:
        numbers = [float(element.findtext(tag) or "") for tag in tags] if element is not None else [math.nan]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None
