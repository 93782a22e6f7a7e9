"""The size of an image by its file's header, and many files at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from detectron2.utils.file_io import PathManager
from PIL import Image
from tqdm import tqdm

_EXIF_ORIENTATION, _FIRST_TURNED = 0x0112, 5
_MAX_THREADS = 8
# How a whole file ends.
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}

Item = TypeVar("Item")
Result = TypeVar("Result")


def image_size(path: str, expected: tuple[float, float]) -> tuple[int, int]:
    """Width and height of an image as Detectron2 reads it, which turns it as its EXIF data say.

    Only the first and last bytes are read, unless they show another size than the one expected, or another end than a
    whole file's: then all of the image is, so that one cut short raises.

    Raises one of `fpt_d2.data.labels.UNREADABLE` if the file is not an image, or not a whole one.
    """
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        end = _ENDS.get(image.format or "", b"")
        # PNG's own getexif() decodes the image, since EXIF data may follow it.
        size = _turned(image.size, Image.Image.getexif(image))
        file.seek(-len(end), os.SEEK_END)
        if size == expected and file.read() == end:
            return size
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        image.load()
        return _turned(image.size, image.getexif())


def _turned(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    return (size[1], size[0]) if exif.get(_EXIF_ORIENTATION, 1) >= _FIRST_TURNED else size


def size_in_words(size: tuple[float, float]) -> str:
    """``"640x480"`` of a width and height."""
    return f"{size[0]}x{size[1]}"


def map_files(function: Callable[[Item], Result], items: Sequence[Item], description: str) -> Iterator[Result]:
    """Apply a function that reads a file to each item, in several threads: PIL and the disk let others run.

    On a terminal, ``description`` stands before a progress bar.
    """
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        yield from tqdm(pool.map(function, items), description, len(items), leave=False, disable=None)
