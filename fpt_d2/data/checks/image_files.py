"""What is to be said of an image file, mostly by its header, and many files at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from ...paths import open_file
from ..findings import Findings
from ..images import (
    IS_BLACK,
    UNDECODABLE,
    bits_of,
    has_16_bits,
    in_8_bits,
    is_black,
    is_deep,
    open_image,
    reason,
    turned_size,
    vanishes,
)

_MAX_THREADS = 8
# How a whole file ends. A file of photographs, MPO, may end in anything.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "MPO": b""}
_MANY_FRAMES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")
# 4095 of 65535: what cameras of 12 bits leave of 16.
_DARK = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageFinding(NamedTuple):
    """A kind of problem, the image that has it, and whether it ends a training or is only to be known."""

    kind: str
    example: str
    is_error: bool = True


class ImageFile(NamedTuple):
    """
    Attributes:
        size: width and height, turned as EXIF data say.
        is_turned: EXIF data exchange them.
        notes: how it is read, where that is not obvious.
    """

    size: tuple[int, int]
    is_turned: bool
    notes: Sequence[str]


def examine_image(
    path: str,
    name: str,
    expected: tuple[float, float],
    *,
    max_size: int | None = None,
    mismatch: str = "image has another size than its width and height say",
) -> list[ImageFinding]:
    """Find what is wrong with an image file, or has to be known of it.

    Only the first and last bytes of a JPEG or PNG are read, unless they show another size than the one expected, or
    another end than a whole file's. Of other formats, and of floats and 16 bits, all is.

    Args:
        path: the file.
        name: what to call it.
        expected: width and height.
        max_size: what the long side may be scaled to, if at all.
        mismatch: how to call it that the image has another size.
    """
    try:
        file = read_image_file(path, expected)
    except UNDECODABLE as error:
        return [ImageFinding("image file cannot be read", f"{name} ({reason(error)})")]
    found = [ImageFinding(note, name, is_error=False) for note in file.notes]
    if file.size != expected:
        turned = " (turned as its EXIF data say)" if file.is_turned else ""
        sizes = f"{name} is {size_in_words(file.size)}{turned}, not {size_in_words(expected)}"
        found.append(ImageFinding(mismatch, sizes))
    elif max_size and vanishes(expected, max_size):
        example = f"{name} ({size_in_words(expected)})"
        found.append(ImageFinding(f"image is too thin to be scaled to a long side of {max_size}", example))
    return found


def refuse_black_sets(errors: Findings, notes: Findings, opened: int) -> None:
    """Make it an error that images are black if all that were opened are: one may be dark, a set is not."""
    if opened and notes.counts[IS_BLACK] == opened:
        notes.move(IS_BLACK, errors)


def longest_side(cfg: CfgNode, *, is_train: bool) -> int | None:
    """What the long side of an image is scaled to at most; None where images are not scaled."""
    inputs = cfg.INPUT
    shortest, longest = inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST
    if is_train:
        shortest, longest = max(inputs.MIN_SIZE_TRAIN, default=0), inputs.MAX_SIZE_TRAIN
    return int(longest) if shortest else None


def read_image_file(path: str, expected: tuple[float, float] | None = None) -> ImageFile:
    """What an image is, of which as much is read as :func:`examine_image` says; all of it where nothing is expected.

    Raises one of `fpt_d2.data.images.UNDECODABLE` if it is not an image, or not a whole one.
    """
    with open_file(path) as file, open_image(file) as image:
        notes, is_16_bits = list(_notes(image)), has_16_bits(image)
        end = _ENDS.get(image.format or "")
        if end is not None and image.mode != "F" and not is_16_bits:
            size, is_turned = turned_size(image)
            file.seek(-len(end), os.SEEK_END)
            if size == expected and file.read() == end:
                return ImageFile(size, is_turned, notes)
    with open_file(path) as file, open_image(file) as image:
        image.load()
        pixels = in_8_bits(image) if is_deep(image) else np.asarray(image) if is_16_bits else None
        if is_16_bits and pixels is not None:
            notes += _darkness(pixels)
        return ImageFile(*turned_size(image, is_loaded=True), notes)


def header_size(path: str) -> tuple[int, int]:
    """Width and height, turned as EXIF data say, by the header alone: the file may be cut short."""
    with open_file(path) as file, open_image(file) as image:
        size, _ = turned_size(image)
        return size


def _darkness(pixels: np.ndarray) -> Iterator[str]:
    if is_black(pixels):
        yield IS_BLACK
    elif pixels.max() <= _DARK:
        yield "image of more than 8 bits is almost black: its values may have to be scaled to its bits"


def _notes(image: Image.Image) -> Iterator[str]:
    if image.mode == "F":
        yield "image of floats, read as 0 to 1 or, where the largest is 16 to 255, as 0 to 255"
    elif is_deep(image):
        yield f"gray image of {bits_of(image)} bits, read with {2 ** bits_of(image) - 1} as white"
    if image.format in _MANY_FRAMES and getattr(image, "n_frames", 1) > 1:
        yield "image of several frames or pages, of which the first is read"


def size_in_words(size: tuple[float, float]) -> str:
    """``"640x480"`` of a width and height."""
    return f"{size[0]}x{size[1]}"


def map_files(function: Callable[[Item], Result], items: Sequence[Item], description: str) -> Iterator[Result]:
    """Apply a function that reads a file to each item, in several threads: PIL and the disk let others run.

    On a terminal, ``description`` stands before a progress bar.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        yield from tqdm(pool.map(function, items), description, len(items), leave=False, disable=None)
