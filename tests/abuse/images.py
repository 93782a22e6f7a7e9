"""Images that are not 8 bits a channel, are no images, or are too large or too thin."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.abuse.cases import Case, Place


def _replace(write: Callable[[Path, np.ndarray], object]) -> Callable[[Place], Sequence[object]]:
    """Put another file in the place of the first image. ``write`` gets its path and its pixels, (H, W) uint8."""

    def spoil(place: Place) -> Sequence[object]:
        path = place.images()[0]
        pixels = np.asarray(Image.open(path).convert("L"))
        path.unlink()
        write(path, pixels)
        return ["--check"]

    return spoil


def _turn(place: Place) -> None:
    path, exif = place.images()[0], Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def _cut(place: Place) -> None:
    path = place.images("val")[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _darken(place: Place) -> None:
    for path in place.images():
        pixels = np.asarray(Image.open(path).convert("L"))
        Image.fromarray(pixels.astype(np.uint16)).save(path, "PNG")


def _make_thin(place: Place) -> Sequence[object]:
    def change(content: dict[str, Any]) -> None:
        image = content["images"][0]
        image.update(width=3000, height=1)
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != image["id"]]

    place.edit(change, "val")
    Image.new("RGB", (3000, 1)).save(place.images("val")[0])
    return []


def _save(dtype: Any, scale: float, format: str) -> Callable[[Path, np.ndarray], None]:
    return lambda path, pixels: Image.fromarray((pixels.astype(float) * scale).astype(dtype)).save(path, format)


CASES = (
    Case("16 bits", _replace(_save(np.uint16, 257, "PNG")), "gray image of 16 bits, read with 65535 as white (1)", 0),
    Case("floats in 0..1", _replace(_save(np.float32, 1 / 255, "TIFF")), "image of floats, read as 0 to 1", 0),
    Case("floats in 0..1000", _replace(_save(np.float32, 4, "TIFF")), "which are neither 0 to 1 nor 0 to 255: scale"),
    Case("integers of 32 bits", _replace(_save(np.int32, 4, "TIFF")), "it has integers of 32 bits (mode I)"),
    Case("PostScript", _replace(_save(np.uint8, 1, "EPS")), "it is PostScript"),
    Case("an image of no bytes", _replace(lambda path, _: path.touch()), "it is not an image"),
    Case("a folder called .jpg", _replace(lambda path, _: path.mkdir()), "(it is a folder, not a file)"),
    Case("a pipe called .jpg", _replace(lambda path, _: os.mkfifo(path)), "(it is a pipe, not a file)"),
    Case("an endless device", _replace(lambda path, _: path.symlink_to("/dev/zero")), "(it is a device, not a file)"),
    Case("8 bits stored in 16", _darken, "image of 16 bits that is read as black"),
    Case(
        "one image of 8 bits stored in 16",
        _replace(_save(np.uint16, 1, "PNG")),
        "image of 16 bits that is read as black: if its values are those of 8 bits, save it with 8",
        0,
    ),
    Case("a link to nowhere", _replace(lambda path, _: path.symlink_to("nowhere")), "(No such file or directory)"),
    Case("a bomb", _replace(lambda path, _: Image.new("1", (13000, 13000)).save(path, "PNG")), "cut it into tiles"),
    Case("a cut test image", _cut, "image file cannot be read (1)"),
    Case("an image that EXIF data turn", _turn, "turned as its EXIF data say"),
    Case("a thin test image", _make_thin, "image is too thin to be scaled to a long side of 128 (1)"),
)
