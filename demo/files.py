"""Which files the demo reads and writes, and whether it can open a window."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from fpt_d2.errors import UserError

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
# Tried in this order. Which of them OpenCV can write depends on how it was built: x264, say, seldom.
_CODECS = ("mp4v", "avc1", "MJPG", "VP80")


def collect_images(inputs: Sequence[str]) -> list[Path]:
    """List the files that the user means, each once.

    Args:
        inputs: files, directories (all images directly inside) and glob patterns.

    Returns:
        The paths in the order given, sorted inside a directory or pattern. What does not exist is listed too, so that
        reading it is reported like any other unreadable file.
    """
    found: list[Path] = []
    for name in inputs:
        name = os.path.expanduser(name)
        # A file may be called "[a].jpg", which is also a pattern.
        for match in [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True)) or [name]:
            path = Path(match)
            found += _images_in(path) or [path] if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def plan_outputs(images: Sequence[Path], output: str) -> list[Path]:
    """Choose where each picture is written, without two in one place or one over an input.

    Args:
        images: the inputs.
        output: an image file, for one input only, or a folder, which is made.

    Returns:
        One path per input.

    Raises:
        UserError: one file for several inputs, a picture would replace an input, or no folder can be made.
    """
    if not os.path.isdir(output) and output.lower().endswith(IMAGE_SUFFIXES):
        if len(images) > 1:
            raise UserError(f"--output {output} is one file for {len(images)} images: give a folder")
        planned = [Path(output)]
    else:
        planned = _unique_names(images, Path(output))
    inputs = {path.resolve() for path in images}
    for path in planned:
        if path.resolve() in inputs:
            raise UserError(f"--output {output} would replace the input {path}: give another folder")
        _make_folder(path.parent)
    return planned


def save(picture: np.ndarray, path: Path) -> None:
    """Write an RGB picture.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(f"The picture {path} cannot be written ({error.strerror or error})") from error


class VideoWriter:
    """Writes BGR frames to a video file with the first codec that opens.

    Args:
        output: a video file, or a folder in which the file is named after the input.
        name: the input's name.
        fps: frames per second.

    Raises:
        UserError: the file would replace the input, or its folder cannot be made.
    """

    def __init__(self, output: str, name: str, fps: float) -> None:
        is_file = not os.path.isdir(output) and output.lower().endswith(_VIDEO_SUFFIXES)
        self.path = Path(output) if is_file else Path(output) / f"{Path(name).stem}.mp4"
        if self.path.exists() and os.path.exists(name) and self.path.samefile(name):
            raise UserError(f"--output {output} would replace the input {name}: give another name")
        _make_folder(self.path.parent)
        self._fps = fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame; the first one settles the size, which may differ from what the input's header says."""
        if self._writer is None:
            self._writer = self._open(frame.shape[1], frame.shape[0])
        self._writer.write(frame)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def _open(self, width: int, height: int) -> cv2.VideoWriter:
        for codec in _CODECS:
            writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter_fourcc(*codec), self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise UserError(f"OpenCV can write {self.path} with none of {', '.join(_CODECS)}: try another suffix")


def check_display() -> None:
    """Raise unless a window can be opened.

    Raises:
        UserError: there is no display, or OpenCV was built without windows.
    """
    # Qt ends the whole process when it finds no display, so that trying would be too late.
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError("There is no display to show the result on: say where to write it with --output")
    try:
        cv2.namedWindow("probe")
        cv2.destroyWindow("probe")
    except cv2.error as error:
        raise UserError("This OpenCV cannot open windows: say where to write the result with --output") from error


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: no folder {folder} can be made ({error.strerror}): give another path") from error


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _unique_names(images: Sequence[Path], folder: Path) -> list[Path]:
    """The inputs' own names; the second ``a.jpg`` becomes ``a_2.jpg``. Case is ignored, as some file systems do."""
    taken: set[str] = set()
    planned = []
    for image in images:
        # Without a suffix for pictures nothing could be written.
        suffix = image.suffix if image.suffix.lower() in IMAGE_SUFFIXES else f"{image.suffix}.png"
        name, count = f"{image.stem}{suffix}", 1
        while name.lower() in taken:
            count += 1
            name = f"{image.stem}_{count}{suffix}"
        taken.add(name.lower())
        planned.append(folder / name)
    return planned
