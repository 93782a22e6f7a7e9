"""From labels in one of the formats VOC, YOLO and LabelMe to a data set in COCO format, with splits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ..findings import Findings
from ..images import UNDECODABLE, reason
from ..names import is_plain_text
from .folders import prepared_folder, raise_findings, read_whole_image, write_info
from .instances import ReadImage, count, read_all, write_instances
from .samples import Sample, check_splits
from .splits import split_by_seed

logger = logging.getLogger(__name__)

_VAL_SHARE = 0.2
_REMEDY = "correct these files, or remove an image together with its label file"


@dataclass(frozen=True)
class Layout:
    """What a folder holds in one of the formats.

    Attributes:
        names: of all its images.
        read: the image of a name with its objects.
        splits: names of the images of each split, where the data set says so.
        classes: in the order of the model's, where the data set says so.
        where: which file or folder says what the splits are.
    """

    names: Sequence[str]
    read: Callable[[str], ReadImage]
    splits: Mapping[str, Sequence[str]]
    where: object
    classes: Sequence[str] | None = None


def convert(
    source: Path,
    root: Path,
    kind: str,
    find: Callable[[Path], Layout],
    *,
    classes: Sequence[str] | None = None,
    val_share: float | None,
    seed: int,
    overwrite: bool,
) -> dict[str, dict[str, int]]:
    """Write ``images`` and, in COCO format, ``annotations/instances_<split>.json``.

    Args:
        source: the folder of images and labels.
        root: the folder to write.
        kind: of data set; only a folder of the same kind is replaced.
        find: the layout of ``source``.
        classes: all classes, in the order of the model's; by default the layout's, or those in the files, sorted.
        val_share: the split val's, by ``seed``. By default the splits are the layout's, and where it has none the
            share is 0.2.

    Returns:
        Number of images and objects of each split.

    Raises:
        DatasetError: the files are not in order; the message names everything that is wrong.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is of another kind.
    """
    with prepared_folder(root, source, kind, overwrite=overwrite) as staging:
        layout = find(source)
        if wrong := [name for name in classes or layout.classes or () if not is_plain_text(name)]:
            raise DatasetError(f"The class {wrong[0]!r} has control characters, or what UTF-8 cannot hold: rename it")
        splits = _splits(layout, val_share, seed)
        names = [name for split in splits.values() for name in split]
        images = read_all(layout.read, names, source, _REMEDY)
        classes = _classes(images, classes or layout.classes)
        _check_objects(images, splits)
        write_instances(staging, images, splits, classes)
        counts = count(images, splits)
        how = {"val_share": val_share, "seed": seed, "masks": _masks(images)}
        write_info(staging, kind, classes=list(classes), splits=counts, **how)
    return counts


def _splits(layout: Layout, val_share: float | None, seed: int) -> Mapping[str, Sequence[str]]:
    if val_share is None and layout.splits:
        check_splits(layout.splits, layout.where)
        if left_out := len({*layout.names}.difference(*layout.splits.values())):
            logger.warning("Left out: %d images, which are in no split of %s", left_out, layout.where)
        return layout.splits
    if val_share is None:
        val_share = max(_VAL_SHARE, 1 / max(len(layout.names), 2))  # of two to four images, one
    return split_by_seed(dict.fromkeys(layout.names, 0), val_share, seed)


def read_sample(name: str, sample: Sample, fill: Callable[[ReadImage], Any]) -> ReadImage:
    """The image of a sample, all of which is decoded, and its objects by ``fill``; or what is wrong with its files."""
    image = ReadImage(next(iter([*sample.images, *sample.labels]), Path(name)))
    image.file_name = f"{name}{image.path.suffix}"
    for kind, files in (("image", sample.images), ("annotation file", sample.labels)):
        if len(files) > 1:
            image.problems.append((f"one name has more than one {kind}", " and ".join(map(str, files))))
    if not sample.images:
        image.problems.append(("image is missing", f"that of {image.path}"))
    if not image.problems:
        measure(image)
    if not image.problems:
        fill(image)
    return image


def measure(image: ReadImage) -> None:
    try:
        image.size, image.is_turned, _ = read_whole_image(image.path)
    except UNDECODABLE as error:
        image.problems.append(("image cannot be read", f"{image.path} ({reason(error)})"))


def sample_reader(
    samples: Mapping[str, Sample], fill: Callable[[Sample, ReadImage], Any]
) -> Callable[[str], ReadImage]:
    def read(name: str) -> ReadImage:
        return read_sample(name, samples[name], partial(fill, samples[name]))

    return read


def _classes(images: Mapping[str, ReadImage], classes: Sequence[str] | None) -> Sequence[str]:
    """The classes that are given, or all that there are. DatasetError if an object is of another."""
    found = {read["category"] for image in images.values() for read in image.objects}
    if not found:
        raise DatasetError("The annotation files have no objects: nothing can be learned from them")
    if classes is None:
        return sorted(found)
    unknown = Findings()
    for name, image in images.items():
        for read in image.objects:
            if read["category"] not in classes:
                unknown.add(f"class {read['category']!r}", name)
    raise_findings(unknown, f"Objects are of none of the classes {', '.join(classes)}", "correct them, or --classes")
    return classes


def _check_objects(images: Mapping[str, ReadImage], splits: Mapping[str, Sequence[str]]) -> None:
    """Raise DatasetError if nothing can be learned from the split train; warn if val has nothing to find."""
    for split, names in splits.items():
        objects = [read for name in names for read in images[name].objects]
        if any(not read["iscrowd"] for read in objects):
            continue
        crowds = f" but {len(objects)} marked as difficult, which become crowds" if objects else ""
        sentence = f"The {len(names)} images of the split {split} have no objects{crowds}"
        if split == "train":
            raise DatasetError(f"{sentence}: nothing can be learned from them; correct the labels or the split")
        logger.warning("%s: their AP is not defined", sentence)


def _masks(images: Mapping[str, ReadImage]) -> str | None:
    """``INPUT.MASK_FORMAT`` with which all objects have masks; None where some have a box only."""
    forms = {type(read.get("segmentation")) for image in images.values() for read in image.objects}
    if type(None) in forms:
        if len(forms) > 1:
            logger.warning("Some objects have masks and others only boxes: masks cannot be trained with these")
        return None
    return "bitmask" if dict in forms else "polygon"
