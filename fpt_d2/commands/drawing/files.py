"""Which files the demo reads and writes, and whether it can open a window."""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...data.images import IMAGE_SUFFIXES
from ...data.names import distinct_names
from ...errors import UserError

# The end of "drawn.xyz", which is a file, and not of "run.v2" or "0.5", which may be folders.
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{2,3}", re.IGNORECASE)


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
        for match in [name] if os.path.lexists(name) else _matches(name) or [name]:
            path = Path(match)
            found += _images_in(path) or [path] if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def _matches(pattern: str) -> list[str]:
    """What a pattern matches; its folder may be called "[a]", too."""
    folder, name = os.path.split(pattern)
    literal = os.path.join(glob.escape(folder), name) if os.path.isdir(folder) else pattern
    return sorted(glob.glob(literal, recursive=True))


def looks_like_a_file(output: str, suffixes: Sequence[str]) -> bool:
    """Whether ``--output`` is a file to write, and not a folder.

    Raises:
        UserError: it looks like a file of another kind.
    """
    if os.path.isdir(output) or output.endswith(os.sep):
        return False
    suffix = Path(output).suffix
    if suffix.lower() not in suffixes and _SUFFIX.fullmatch(suffix):
        kinds = ", ".join(suffixes)
        raise UserError(f"--output {output} ends in none of {kinds}: give another, or {output}{os.sep} for a folder")
    return suffix.lower() in suffixes


def plan_outputs(images: Sequence[Path], output: str) -> list[Path]:
    """Choose where each picture is written, without two in one place or one over an input.

    Args:
        images: the inputs.
        output: an image file, for one input only, or a folder, which is made.

    Returns:
        One path per input.

    Raises:
        UserError: one file for several inputs, a picture would replace an input or another, or no folder can be made.
    """
    if looks_like_a_file(output, IMAGE_SUFFIXES):
        if len(images) > 1:
            raise UserError(f"--output {output} is one file for {len(images)} images: give a folder")
        planned = [Path(output)]
    else:
        names = distinct_names(map(str, images), _suffix)
        planned = [Path(output) / names[str(image)] for image in images]
    inputs, taken = {_identity(path) for path in images}, set()
    for path in planned:
        identity = _identity(path)
        if identity in inputs:
            raise UserError(f"--output {output} would replace the input {path}: give another folder")
        if identity in taken or path.is_dir():
            raise UserError(f"--output {output}: {path} is a folder, or a link to another picture: give another folder")
        taken.add(identity)
        make_folder(path.parent)
    return planned


def _identity(path: Path) -> object:
    """The same for two names of one file, be it by symbolic or hard links."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def save(picture: np.ndarray, path: Path) -> None:
    """Write an RGB picture.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        Image.fromarray(picture).save(path)
    except (OSError, ValueError) as error:  # ValueError: too large for the format
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"The picture {path} cannot be written ({reason})") from error


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


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: no folder {folder} can be made ({error.strerror}): give another path") from error


def _images_in(folder: Path) -> list[Path]:
    """The images directly in a folder; none in one that may not be listed."""
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir())
    except OSError:
        return []


def _suffix(image: str) -> str:
    """Of the picture of an image: without one for pictures nothing could be written."""
    suffix = Path(image).suffix
    return suffix if suffix.lower() in IMAGE_SUFFIXES else f"{suffix}.png"
