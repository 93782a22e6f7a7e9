"""Writing a data set of two splits into a folder that appears only when it is complete."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from ...errors import DatasetError
from ...paths import read_file

_SMALLEST_IMAGE = 64  # below it a shape of the smallest diameter fills the image
SPLITS = ("train", "val")  # a split's place enters the seed: append, never insert

# (folder of the data set, split, indices of its images) writes them.
WriteSplit = Callable[[Path, str, "tqdm[int]"], None]


def write_splits(
    root: str | os.PathLike[str],
    write_split: WriteSplit,
    sizes: tuple[int, int],
    *,
    seed: int,
    marker: tuple[str, str],
    overwrite: bool,
    progress: bool,
) -> None:
    """Write the splits of a synthetic data set, as the functions that draw one describe.

    Args:
        sizes: number of images of each split.
        marker: a JSON file of the data set, and the "description" in it by which its kind is known.

    Raises:
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is of another kind.
        DatasetError: a number is out of range.
    """
    if min(sizes) < 1:
        raise DatasetError(f"num_train and num_val must be at least 1, not {sizes[0]} and {sizes[1]}")
    if seed < 0:
        raise DatasetError(f"seed must not be negative, but is {seed}")
    with staged_folder(Path(root).absolute(), marker, overwrite=overwrite) as staging:
        for split, number in zip(SPLITS, sizes):
            write_split(staging, split, tqdm(range(number), split, unit="image", disable=None if progress else True))


def check_image_size(image_size: tuple[int, int]) -> None:
    """Raise DatasetError if the smallest and the largest short side (pixels) are not in order, or too small."""
    if not _SMALLEST_IMAGE <= image_size[0] <= image_size[1]:
        raise DatasetError(f"image_size must be (min, max) with {_SMALLEST_IMAGE} <= min <= max, not {image_size}")


@contextmanager
def staged_folder(root: Path, marker: tuple[str, str], *, overwrite: bool) -> Iterator[Path]:
    """A folder that becomes ``root`` when the block ends, and is gone when the block raises."""
    if root.exists():
        if not _has_marker(root, *marker):
            raise FileExistsError(
                f"{root} exists and is not a data set of this kind: choose another folder, or remove it"
            )
        if not overwrite:
            raise FileExistsError(f"{root} holds a data set already: overwrite=True (--overwrite) replaces it")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside its final place, so that the last step is a rename; an interruption leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as parent:
        staging = Path(parent) / root.name
        staging.mkdir()
        yield staging
        if root.exists():
            shutil.rmtree(root)
        staging.rename(root)


def _has_marker(root: Path, file: str, description: str) -> bool:
    try:
        content = json.loads(read_file(root / file))
        return bool(content.get("info", content)["description"] == description)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
