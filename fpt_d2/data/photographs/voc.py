"""Boxes in Pascal VOC's format, an XML file for each image, to COCO's.

By our own reader: that of the library which was tried (supervision 0.31) loses which objects are difficult, takes an
image without an annotation file for one without objects, compares no sizes, lets boxes lie outside, and does not name
the file that is not XML.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from ...errors import DatasetError
from ..checks.findings import Findings
from ..checks.image_files import size_in_words
from ..datasets.sem_seg import IMAGE_SUFFIXES
from ..images import UNDECODABLE
from .folders import names_in, prepared_folder, raise_findings, read_lines, size_of_whole_image, write_info
from .instances import ReadImage, box_annotation, count, read_all, write_instances
from .splits import split_by_seed

logger = logging.getLogger(__name__)

_KIND = "boxes in VOC format"
_SPLITS = ("train", "val", "test")
_VAL_SHARE = 0.2
# A box may reach beyond its image by rounding, and is clipped. Much more than that is a mistake.
_TOLERANCE = 2.0  # pixels
_REMEDY = "correct these files, or remove an image together with its annotation file"


class _Folders(NamedTuple):
    annotations: Path
    images: Path
    lists: Path  # of splits; need not exist


def prepare_voc(
    source: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val_share: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Write ``images`` and, in COCO format, ``annotations/instances_<split>.json``.

    What the files mark as difficult becomes a crowd, which is neither trained nor evaluated.

    Args:
        source: a folder with ``Annotations`` and ``JPEGImages``, one that holds such a folder, or one of images with
            their XML files beside them.
        root: the folder to write.
        classes: all classes, in the order of the model's; by default those in the files, sorted.
        val_share: the split val's, by ``seed``. By default the lists ``ImageSets/Main/{train,val,test}.txt`` say what
            belongs to a split, and where there are none the share is 0.2.

    Returns:
        Number of images and objects of each split.

    Raises:
        DatasetError: the files are not in order; the message names everything that is wrong.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is of another kind.
    """
    with prepared_folder(root, source, _KIND, overwrite=overwrite) as staging:
        folders = _find_folders(source)
        splits = {} if val_share is not None else _read_lists(folders.lists)
        image_names = _image_names(folders.images)
        names = _names(folders, image_names, splits)
        images = read_all(partial(_read_image, folders, image_names), names, folders.annotations, _REMEDY)
        classes = _classes(images, classes)
        splits = splits or split_by_seed(dict.fromkeys(names, 0), _VAL_SHARE if val_share is None else val_share, seed)
        write_instances(staging, images, splits, classes)
        counts = count(images, splits)
        write_info(staging, _KIND, classes=list(classes), val_share=val_share, seed=seed, splits=counts)
    return counts


def _find_folders(source: Path) -> _Folders:
    def is_voc(folder: Path) -> bool:
        return (folder / "Annotations").is_dir() and (folder / "JPEGImages").is_dir()

    inside = sorted(path for path in source.iterdir() if path.is_dir() and is_voc(path))
    if not is_voc(source) and len(inside) > 1:
        raise DatasetError(f"{source} holds several sets, {', '.join(p.name for p in inside)}: name the folder of one")
    for folder in (source, *inside):
        if is_voc(folder):
            return _Folders(folder / "Annotations", folder / "JPEGImages", folder / "ImageSets" / "Main")
    if not any(name.endswith(".xml") for name in names_in(source)):
        raise DatasetError(
            f"{source} has neither the folders Annotations and JPEGImages nor XML files beside images: name the "
            "folder that has them"
        )
    return _Folders(source, source, source / "ImageSets" / "Main")


def _read_lists(folder: Path) -> dict[str, list[str]]:
    """Names of the images of each split; none where there are no lists."""
    files = {split: folder / f"{split}.txt" for split in _SPLITS}
    splits = {split: _read_list(file) for split, file in files.items() if file.is_file()}
    if not splits:
        return {}
    if not splits.get("train") or not splits.get("val"):
        raise DatasetError(
            f"{folder} lists images of {', '.join(splits)}, but train.txt and val.txt must both be there and list "
            "images: add them, or set --val-share to split without these lists"
        )
    for one, other in combinations(splits, 2):
        if both := sorted({*splits[one]} & {*splits[other]}):
            raise DatasetError(f"{folder} lists {both[0]} in both {one}.txt and {other}.txt: remove it from one")
    return splits


def _read_list(file: Path) -> list[str]:
    names = read_lines(file)
    # Only the suffixes of images: names may have other dots.
    return list(dict.fromkeys(n[: n.rindex(".")] if n.lower().endswith(IMAGE_SUFFIXES) else n for n in names))


def _image_names(folder: Path) -> dict[str, str]:
    """Name of each image with its suffix, by that without."""
    names: dict[str, str] = {}
    for name in sorted(names_in(folder)):
        if name.lower().endswith(IMAGE_SUFFIXES):
            if other := names.get(Path(name).stem):
                raise DatasetError(f"{folder} has both {other} and {name}, of which one name is to be: rename one")
            names[Path(name).stem] = name
    return names


def _names(folders: _Folders, image_names: Mapping[str, str], splits: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of all images and annotation files, or of those that are listed, whether or not they are there."""
    annotated = {name.removesuffix(".xml") for name in names_in(folders.annotations) if name.endswith(".xml")}
    found = {*image_names, *annotated}
    if not splits:
        return sorted(found)
    listed = [name for names in splits.values() for name in names]
    if unlisted := len(found - {*listed}):
        logger.warning("Left out: %d images, which none of the lists in %s has", unlisted, folders.lists)
    return listed


def _read_image(folders: _Folders, image_names: Mapping[str, str], name: str) -> ReadImage:
    file = folders.annotations / f"{name}.xml"
    image = ReadImage(folders.images / image_names.get(name, f"{name}.*"))
    if name not in image_names:
        image.problems.append(("image is missing", str(image.path)))
    if not file.is_file():
        image.problems.append(("annotation file is missing", str(file)))
    if image.problems:
        return image
    try:
        image.size = size_of_whole_image(image.path)
    except UNDECODABLE as error:
        image.problems.append(("image cannot be read", f"{image.path} ({error})"))
        return image
    try:
        annotation = ElementTree.parse(file).getroot()
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # the last two: of an odd encoding
        image.problems.append(("annotation file is not XML", f"{file} ({error})"))
        return image
    image.problems += _size_problems(annotation, image, file)
    for number, element in enumerate(annotation.iterfind("object"), start=1):
        _add_object(image, element, f"{file} object {number}")
    return image


def _size_problems(annotation: ElementTree.Element, image: ReadImage, file: Path) -> Iterator[tuple[str, str]]:
    if annotation.tag != "annotation":
        yield "XML file is not a VOC annotation", f"{file} (<{annotation.tag}>)"
    size = _numbers(annotation.find("size"), ("width", "height"))
    # Some tools write no size, or 0.
    if size and all(size) and tuple(size) != image.size:
        sizes = f"{size[0]:g}x{size[1]:g}, {image.path} is {size_in_words(image.size)}"
        yield "annotation file has another size than its image", f"{file} has {sizes}"


def _add_object(image: ReadImage, element: ElementTree.Element, where: str) -> None:
    name = (element.findtext("name") or "").strip()
    box = _numbers(element.find("bndbox"), ("xmin", "ymin", "xmax", "ymax"))
    if not name or box is None:
        image.problems.append(("object has no name or no four numbers in bndbox", where))
        return
    (left, right), (top, bottom) = sorted(box[::2]), sorted(box[1::2])  # some tools write corners as they were drawn
    width, height = image.size
    if min(left, top, width - right, height - bottom) < -_TOLERANCE:
        numbers = ", ".join(f"{x:g}" for x in box)
        image.problems.append(("box reaches outside its image", f"{where} ({numbers}) of {size_in_words(image.size)}"))
    elif left == right or top == bottom:
        image.left_out.append(("box of one point or line, as a slip of the mouse draws it", where))
    else:
        # VOC's first pixel is 1, and its last is that of the object.
        left, top = max(left - 1, 0.0), max(top - 1, 0.0)
        corner = left, top, min(right, width) - left, min(bottom, height) - top
        is_difficult = (element.findtext("difficult") or "0").strip() == "1"
        image.objects.append(box_annotation(name, corner, iscrowd=is_difficult))


def _numbers(element: ElementTree.Element | None, tags: Sequence[str]) -> list[float] | None:
    """The numbers that the elements of these tags hold; None unless all do."""
    try:
        numbers = [float(element.findtext(tag) or "") for tag in tags] if element is not None else [math.nan]
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _classes(images: Mapping[str, ReadImage], classes: Sequence[str] | None) -> Sequence[str]:
    """The classes that are given, or all that there are. DatasetError if an object is of another."""
    if classes is None:
        classes = sorted({read["category"] for image in images.values() for read in image.objects})
    unknown = Findings()
    for name, image in images.items():
        for read in image.objects:
            if read["category"] not in classes:
                unknown.add(f"class {read['category']!r}", name)
    raise_findings(unknown, f"Objects are of none of the classes {', '.join(classes)}", "correct them, or --classes")
    if not classes:
        raise DatasetError("The annotation files have no objects: nothing can be learned from them")
    return classes
