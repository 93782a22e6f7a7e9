"""What the check says of an image file before anything reads it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from fpt_d2.data.checks.image_files import ImageFinding, examine_image, read_image_file
from fpt_d2.data.images import IS_BLACK, read_image

SIZE = (100, 80)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def save(pixels: np.ndarray, format: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(pixels).save(path, format, **options)


def save_cut(format: str) -> Callable[[Path], None]:
    noise = np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)
    return lambda path: (Image.fromarray(noise).save(path, format), cut(path))[1]


def make_socket(path: Path) -> None:
    folder = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)
    os.chdir(folder)


def full(value: float, dtype: Any) -> np.ndarray:
    return np.full((80, 100), value, dtype)


@pytest.mark.parametrize(
    ("write", "notes"),
    [
        (save(full(9, np.uint8), "JPEG"), []),
        (save(full(9, np.uint8), "TIFF"), []),
        (save(full(60000, np.uint16), "PNG"), ["gray image of 16 bits, read with 65535 as white"]),
        (save(full(60000, np.uint16), "TIFF"), ["gray image of 16 bits, read with 65535 as white"]),
        (
            save(full(3000, np.uint16), "TIFF"),
            ["gray image of 16 bits, read with 65535 as white", "image of more than 8 bits is almost black: "],
        ),
        (save(full(255, np.uint16), "PNG"), ["gray image of 16 bits, read with 65535 as white", IS_BLACK]),
        (lambda path: cv2.imencode(".png", full(200, np.uint16)[..., None].repeat(3, 2))[1].tofile(path), [IS_BLACK]),
        (lambda path: cv2.imencode(".png", full(0, np.uint8)[..., None].repeat(3, 2))[1].tofile(path), []),
        (save(full(0.5, np.float32), "TIFF"), ["image of floats, read as 0 to 1 or, where"]),
        (
            save(full(9, np.uint8), "GIF", save_all=True, append_images=[Image.new("L", SIZE)]),
            ["image of several frames or pages, of which the first is read"],
        ),
        (
            save(full(9, np.uint8), "TIFF", save_all=True, append_images=[Image.new("L", SIZE)]),
            ["image of several frames or pages, of which the first is read"],
        ),
    ],
)
def test_how_an_image_is_read_is_noted(write: Callable[[Path], None], notes: list[str], tmp_path: Path) -> None:
    write(tmp_path / "a.img")
    found = examine_image(str(tmp_path / "a.img"), "a", SIZE)
    assert [finding.kind[: len(note)] for finding, note in zip(found, notes)] == notes
    assert len(found) == len(notes) and not any(is_error for _, _, is_error in found)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (save(full(9, np.int32), "TIFF"), "it has integers of 32 bits (mode I)"),
        (save(full(9, np.float32), "TIFF"), "it has floats (mode F) from 9 to 9"),
        (save(full(9, np.uint8), "EPS"), "it is PostScript"),
        (
            lambda path: Image.new("1", (13000, 13000)).save(path, "PNG"),
            "it has 13000 x 13000 pixels, more than 134 mil",
        ),
        *((save_cut(format), "") for format in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")),
        (Path.mkdir, "it is a folder, not a file"),
        (os.mkfifo, "it is a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (make_socket, "it is a socket, not a file"),
        (Path.touch, "it is not an image"),
        (lambda path: path.symlink_to(path.name), "Too many levels"),
    ],
)
def test_what_ends_a_training_is_an_error(write: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    write(tmp_path / "a.img")
    (found,) = examine_image(str(tmp_path / "a.img"), "a", SIZE)
    assert found.is_error and found.kind == "image file cannot be read" and found.example.startswith(f"a ({reason}")


def test_sizes_and_their_reason(tmp_path: Path) -> None:
    path, exif = str(tmp_path / "a.jpg"), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", SIZE).save(path, exif=exif)
    assert read_image_file(path, SIZE).size == (80, 100) and examine_image(path, "a", (80, 100)) == []
    mismatch = "image has another size than its width and height say"
    assert examine_image(path, "a", SIZE) == [
        ImageFinding(mismatch, "a is 80x100 (turned as its EXIF data say), not 100x80")
    ]
    Image.new("RGB", SIZE).save(path)
    assert examine_image(path, "a", (80, 100)) == [ImageFinding(mismatch, "a is 100x80, not 80x100")]


def test_thin_images_are_named_where_they_are_scaled(tmp_path: Path) -> None:
    Image.new("L", (1000, 2)).save(tmp_path / "a.png")
    for max_size, count in ((None, 0), (1333, 0), (250, 0), (249, 1)):
        found = examine_image(str(tmp_path / "a.png"), "a", (1000, 2), max_size=max_size)
        assert len(found) == count
    assert found == [ImageFinding("image is too thin to be scaled to a long side of 249", "a (1000x2)")]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_data_that_cannot_be_read_turn_nothing(format: str, dtype: Any, tmp_path: Path) -> None:
    """Detectron2 passes over them too."""
    if format == "WEBP" and dtype == np.uint16:
        pytest.skip("WebP has 8 bits")
    path = str(tmp_path / "a.img")
    Image.fromarray(full(60 if dtype == np.uint8 else 60000, dtype)).save(path, format, exif=b"garbage")
    assert not any(found.is_error for found in examine_image(path, "a", SIZE))
    (wrong,) = [found for found in examine_image(path, "a", SIZE[::-1]) if found.is_error]
    assert wrong.kind == "image has another size than its width and height say"
    assert read_image(path, "RGB").shape == (80, 100, 3)
