"""Write the synthetic data set for semantic segmentation: images and label images, from a seed."""

import json
import os
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image
from tqdm import tqdm

from .context_scene import CLASSES, IGNORE_LABEL, draw_context_scene
from .staging import staged_folder
from .synthetic import SPLITS

DESCRIPTION = "Synthetic scenes with context classes of fpt_d2"
INFO_FILE = "info.json"
_STREAM = 1  # enters the seed, so that these scenes share no randomness with those for detection


def write_semantic_dataset(
    root: Union[str, os.PathLike],
    *,
    num_train: int = 1000,
    num_val: int = 100,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write ``images/{train,val}/*.jpg``, ``labels/{train,val}/*.png`` and ``info.json`` under ``root``.

    Labels are uint8, indices into :data:`.context_scene.CLASSES`, 255 where there is none. The same seed gives the
    same bytes (with the same versions of numpy, OpenCV and Pillow), and image i of a split is the same however many
    there are. The folder appears only when it is complete.

    Args:
        root: folder of the data set.
        num_train, num_val: number of images of each split.
        seed: seed of all randomness, not negative.
        overwrite: replace the synthetic data set that is there already.
        progress: show a progress bar.

    Raises:
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is something else.
        ValueError: a number is out of range.
    """
    if min(num_train, num_val) < 1:
        raise ValueError(f"num_train and num_val must be at least 1, not {num_train} and {num_val}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}.")
    with staged_folder(root, _is_semantic, overwrite=overwrite) as staging:
        with tqdm(total=num_train + num_val, unit="image", disable=None if progress else True) as bar:
            for split, num_images in zip(SPLITS, (num_train, num_val)):
                _write_split(staging, split, num_images, seed, bar)
        info = {"description": DESCRIPTION, "seed": seed, "classes": CLASSES, "ignore_label": IGNORE_LABEL}
        (staging / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")


def semantic_scene(seed: int, split: str, index: int, *, exchanged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Image ``index`` of a split, (H, W, 3) uint8 RGB, and its labels (H, W) uint8.

    Args:
        exchanged: see :func:`.context_scene.draw_context_scene`.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _STREAM])
    return draw_context_scene(rng, exchanged=exchanged)


def _write_split(root: Path, split: str, num_images: int, seed: int, bar: tqdm) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(num_images):
        pixels, label = semantic_scene(seed, split, index)
        Image.fromarray(pixels).save(images / f"{index + 1:06d}.jpg", quality=92)
        Image.fromarray(label).save(labels / f"{index + 1:06d}.png")
        bar.update()


def _is_semantic(root: Path) -> bool:
    try:
        return json.loads((root / INFO_FILE).read_text(encoding="utf-8"))["description"] == DESCRIPTION
    except (OSError, ValueError, LookupError, TypeError):
        return False
