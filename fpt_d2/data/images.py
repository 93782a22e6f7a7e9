"""Reading an image in 8 bits a channel, whatever bits its file has, and what of it can be read.

======================================  ============================================================
Pixels of the file                      are read
======================================  ============================================================
1 to 8 bits, palette, CMYK, YCbCr, ...  as Detectron2's ``read_image`` does; transparency is dropped
16 bits in several channels             so too: PIL takes the upper 8 bits
16 bits gray                            with 65535 as 255; 12 bits gray (TIFF) with 4095 as 255. That those of 8
                                        bits stored in 16 are black is said
floats gray, from 0 to at most 1        times 255
floats gray, from 0 to 16..255          as they are
other floats, integers of 32 bits       refused: what is white in them is not known
several frames or pages                 the first
======================================  ============================================================
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from collections.abc import Iterable
from functools import cache
from typing import IO, Any

import numpy as np
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.utils.logger import log_first_n
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DatasetError, printable
from ..paths import open_file, why
from .labels import UNREADABLE

# Which files of a folder are taken for images.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# 11585 x 11585, or 384 MiB as RGB, of which training and drawing hold several copies. PIL warns of 89 million.
MAX_PIXELS = 2**27
# Floats with a largest value between 1 and this can be in 0..1 and overshoot, or in 0..255 and dark.
_MIN_WHITE = 16
_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC = 0x0112, 0x0102, 0x0106  # tags of EXIF and TIFF
_QUARTERS = (5, 6, 7, 8)  # orientations that exchange width and height
_WHITE_IS_ZERO = 0
# Of 255: up to which an image of 16 bits is black, as are those whose values were meant for 8.
_BLACK = 1
IS_BLACK = 'image of 16 bits that is read as black: if its values are those of 8 bits, save it with 8, .astype("uint8")'
_MOST_SAID = 10  # of the images that read_image finds black in a process
# What PIL raises for a file that it cannot open or decode. Which of them depends on the format and on the damage.
UNDECODABLE = (*UNREADABLE, EOFError, MemoryError, RuntimeError, struct.error)


def read_image(path: str | os.PathLike[str], format: str | None) -> np.ndarray:
    """Read an image, turned as its EXIF data say.

    Args:
        path: the file.
        format: of Detectron2's ``read_image``, such as ``"RGB"`` or ``"BGR"``.

    Returns:
        (H, W, C) uint8; floats for ``"YUV-BT.601"``.

    Raises:
        DatasetError: it is not an image, is not whole, is too large, or its range is not known.
    """
    try:
        with open_file(path) as file, open_image(file) as image:
            has_bits, gray = has_16_bits(image), in_8_bits(image) if is_deep(image) else None
        if gray is None:
            pixels: np.ndarray = detection_utils.read_image(str(path), format)
        else:
            pixels = detection_utils.convert_PIL_to_numpy(Image.fromarray(gray), format)
    except UNDECODABLE as error:
        raise DatasetError(f"The image {path} cannot be read: {reason(error)}") from error
    if has_bits and is_black(pixels if gray is None else gray):
        log_first_n(logging.WARNING, printable(f"{path}: {IS_BLACK}"), n=_MOST_SAID)
    return pixels


def pixels_of(image: Image.Image, format: str | None) -> np.ndarray:
    """As :func:`read_image`, of an image of PIL, which may be opened or made. Raises DatasetError."""
    try:
        _check_header(image)
        upright = Image.fromarray(in_8_bits(image)) if is_deep(image) else _upright(image)
        pixels: np.ndarray = detection_utils.convert_PIL_to_numpy(upright, format)
    except UNDECODABLE as error:
        raise DatasetError(f"The image cannot be read: {reason(error)}") from error
    return pixels


def _check_header(image: Image.Image) -> None:
    """Check what an opened image says of itself. Raises ValueError with what makes it unreadable."""
    check_pixels(*image.size)
    if image.format == "EPS":  # which PIL draws by running Ghostscript
        raise ValueError("it is PostScript, which is a program and not pixels: save it as PNG")
    if image.format == "TIFF" and Image.Image.getexif(image).get(_ORIENTATION, 1) != 1:
        raise ValueError("it is a TIFF that is to be turned, which PIL and Detectron2 both do: save it upright")
    if image.mode == "I" and not is_deep(image):
        raise ValueError("it has integers of 32 bits (mode I), of which white is not known: save it with 8 or 16 bits")


def check_pixels(width: float, height: float) -> None:
    """Raises ValueError with the remedy if an image has more than ``MAX_PIXELS``."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"it has {width:g} x {height:g} pixels, more than {MAX_PIXELS / 1e6:.0f} million: cut it into tiles, or "
            "scale it down"
        )


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image is gray of more than 8 bits, with a range that may be known."""
    # Older releases of PIL open PNGs of 16 bits in mode "I", all of them PGMs of more than 8, scaled to 16.
    return image.mode.startswith("I;16") or image.mode == "F" or (image.mode == "I" and image.format in ("PNG", "PPM"))


def has_16_bits(image: Image.Image) -> bool:
    """Whether an opened image that is not loaded yet has integers of 16 bits, be it in one channel or in several."""
    return (is_deep(image) and image.mode != "F") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def is_black(pixels: np.ndarray) -> bool:
    """Whether an image of 16 bits, read as uint8, is as black as one whose values were meant for 8 bits."""
    return int(pixels.max()) <= _BLACK


def in_8_bits(image: Image.Image) -> np.ndarray:
    """A gray image of more than 8 bits as (H, W) uint8, upright. Raises ValueError if its range is not known."""
    deep = np.asarray(_upright(image))
    white = _white_of_floats(deep) if image.mode == "F" else 2 ** bits_of(image) - 1
    pixels: np.ndarray = np.rint(deep.astype(np.float32) * (255 / white)).astype(np.uint8)
    if _tiff_tag(image, _PHOTOMETRIC, default=1) == _WHITE_IS_ZERO:
        pixels = 255 - pixels
    return pixels


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except UNDECODABLE:  # of its EXIF data, or, which comes again, of its pixels
        return image


def bits_of(image: Image.Image) -> int:
    """Bits of a gray image of integers, more than 8: 16, or 12 in a TIFF that says so."""
    return _tiff_tag(image, _BITS_PER_SAMPLE, default=16)


def _tiff_tag(image: Image.Image, tag: int, *, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _white_of_floats(pixels: np.ndarray) -> int:
    low, high = float(pixels.min()), float(pixels.max())
    if low >= 0 and high <= 1:
        return 1
    if low >= 0 and _MIN_WHITE <= high <= 255:
        return 255
    raise ValueError(
        f"it has floats (mode F) from {low:g} to {high:g}, which are neither 0 to 1 nor 0 to 255: scale them, or save "
        "it with 8 or 16 bits"
    )


def turned_size(image: Image.Image, *, is_loaded: bool = False) -> tuple[tuple[int, int], bool]:
    """Width and height of an opened image as its EXIF data turn it, and whether they do so by a quarter.

    Like Detectron2, it takes an image for upright whose EXIF data cannot be read.
    """
    width, height = image.size
    try:
        # PNG's own getexif() decodes the image, since EXIF data may follow it.
        exif = image.getexif() if is_loaded else Image.Image.getexif(image)
        is_turned = exif.get(_ORIENTATION) in _QUARTERS
    except UNDECODABLE:
        is_turned = False
    return ((height, width) if is_turned else (width, height)), is_turned


def vanishes(size: tuple[float, float], max_size: int) -> bool:
    """Whether ResizeShortestEdge, to make the long side of an image ``max_size``, leaves no pixel of its short one."""
    return 2 * min(size) * max_size < max(size)


def check_scaling(path: object, image: np.ndarray, augmentations: Iterable[Any]) -> None:
    """Raises DatasetError with the path if an image, (H, W, C), is too thin to be scaled by these augmentations."""
    height, width = image.shape[:2]
    for augmentation in augmentations:
        if not isinstance(augmentation, T.ResizeShortestEdge) or not max(augmentation.short_edge_length):
            continue  # 0 is Detectron2's for images that are not scaled
        if vanishes((height, width), augmentation.max_size):
            raise DatasetError(
                f"The image {path} of {width} x {height} pixels is too thin: scaled to a long side of "
                f"{augmentation.max_size}, it has no short one; cut it, or raise INPUT.MAX_SIZE_TRAIN and _TEST"
            )


def reason(error: Exception) -> str:
    """Why an image cannot be read, in words, of an exception in ``UNDECODABLE``."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or of a kind that PIL does not read, such as floats in color or JPEG of 12 bits"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS / 1e6:.0f} million pixels: cut it into tiles, or scale it down"
    return why(error)


@cache
def _ignore_bomb_warnings() -> None:
    """PIL warns of images that it deems large. What is too large here is said in :func:`open_image`."""
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def open_image(file: IO[bytes]) -> Image.Image:
    """PIL's ``Image.open`` of an image that :func:`read_image` reads. Raises one of ``UNDECODABLE``."""
    _ignore_bomb_warnings()
    image = Image.open(file)
    _check_header(image)
    return image
