"""Label images of semantic segmentation: reading them, colors of their classes, and what a flip does to them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from detectron2.data import Metadata, MetadataCatalog
from PIL import Image

from ..errors import DatasetError
from ..paths import open_file, why

# The label of pixels that belong to no class, in every data set that this project knows.
IGNORE_LABEL = 255
_ORIENTATION, _UPRIGHT = 0x0112, 1  # EXIF's tag, and its value that changes nothing

# What PIL raises for a file that is missing, not an image, cut short or far too large.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a label image as (H, W) uint8. Where it has a palette, as Pascal VOC's, indices are labels, not colors.

    Raises DatasetError if it cannot be read, or is a picture of another kind.
    """
    try:
        with open_file(path) as file, Image.open(file) as image:
            format, mode, labels, turned = image.format, image.mode, np.array(image), _orientation(image)
    except UNREADABLE as error:
        raise DatasetError(f"{path} cannot be read ({why(error)})") from error
    if mode not in ("L", "P"):
        raise DatasetError(f"{path} is not an 8-bit label image but of mode {mode}")
    if format == "JPEG":
        raise DatasetError(f"{path} is a JPEG, which changes labels at the edges of objects: save it as PNG")
    if turned != _UPRIGHT:
        raise DatasetError(f"{path} is to be turned by its EXIF data, which not everything does: save it upright")
    return labels


def _orientation(image: Image.Image) -> int:
    """That of the EXIF data of an image that is loaded; that of one that stands upright where they cannot be read."""
    try:
        found: int = image.getexif().get(_ORIENTATION, _UPRIGHT)
    except UNREADABLE:
        return _UPRIGHT
    return found if found in range(1, 9) else _UPRIGHT


def label_colors(num_classes: int) -> list[tuple[int, int, int]]:
    """Pascal VOC's colors of up to 256 classes, RGB in 0..255: the bits of the label, dealt out to R, G and B."""

    def channel(label: int, first: int) -> int:
        return sum((label >> (3 * i + first) & 1) << (7 - i) for i in range(8))

    return [(channel(label, 0), channel(label, 1), channel(label, 2)) for label in range(num_classes)]


def flipped_classes(dataset_names: Sequence[str]) -> list[int] | None:
    """The index of each class in a flipped image, by ``stuff_flip_map`` of (left, right) names; None if none changes.

    That is for classes what ``keypoint_flip_map`` is for keypoints. Raises DatasetError if the data sets differ in it,
    or if a pair has a name that is not a class.
    """
    all_flipped = [_flipped_classes(MetadataCatalog.get(name)) for name in dataset_names]
    if any(flipped != all_flipped[0] for flipped in all_flipped):
        raise DatasetError(
            f"The data sets {', '.join(dataset_names)} differ in what a flip makes of their classes (stuff_flip_map): "
            "set INPUT.RANDOM_FLIP none and TEST.AUG.FLIP False"
        )
    return all_flipped[0] if all_flipped else None


def _flipped_classes(metadata: Metadata) -> list[int] | None:
    names: Sequence[str] = metadata.get("stuff_classes") or ()
    flipped = list(range(len(names)))
    for left, right in metadata.get("stuff_flip_map") or ():
        if left not in names or right not in names:
            raise DatasetError(f"stuff_flip_map of {metadata.name!r} has ({left}, {right}): both must be classes")
        i, j = names.index(left), names.index(right)
        flipped[i], flipped[j] = j, i
    return flipped if flipped != sorted(flipped) else None
