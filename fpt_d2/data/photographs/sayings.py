"""What label files say of an image beside its objects: its size, and names."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from reprlib import repr as short

from ..checks.image_files import size_in_words
from ..names import is_plain_text

_MOST_PIXELS = 1e9  # of a side, when it is written out


def size_problem(
    file: Path, said: Sequence[object], image: Path, size: tuple[int, int], is_turned: bool
) -> list[tuple[str, str]]:
    """The problem of a file that gives its image another size than it has, if it does.

    Args:
        said: width and height as they stand in the file, numbers or text. Some tools write none, or 0.
        size: width and height of the image.
        is_turned: EXIF data exchange the sides of what is stored.
    """
    sides = [_side(value) for value in said]
    if None in sides:
        return [("width or height of the image is not a number", f"{file} ({', '.join(map(short, said))})")]
    if all(side in (0, own) for side, own in zip(sides, size)):
        return []
    words = "x".join(f"{side:g}" if abs(side) < _MOST_PIXELS else "..." for side in sides if side is not None)
    example = f"{file} has {words}, {image} is {size_in_words(size)}"
    if tuple(sides[::-1]) == size:
        example += " as its EXIF orientation turns it" if is_turned else ": width and height are exchanged"
    return [("annotation file has another size than its image", example)]


def _side(value: object) -> float | None:
    """The number that a value is, 0 where there is none; None for anything else."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return 0
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) < math.inf:
        return None
    return number


def not_text(image: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The problems of names, of an image and its classes, that an annotation file cannot hold."""
    for name in dict.fromkeys(names):
        if not is_plain_text(name):
            yield "name has control characters, or what UTF-8 cannot hold: rename it", f"{name!r} of {image}"
