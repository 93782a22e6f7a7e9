"""Write the synthetic data set for semantic segmentation: images and label images, from a seed."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..labels import IGNORE_LABEL
from .classes import CONTEXT_CLASSES
from .context_scene import draw_context_scene
from .staging import SPLITS, write_splits

DESCRIPTION = "Synthetic scenes with context classes of fpt_d2"
INFO_FILE = "info.json"
_STREAM = 1  # enters the seed, so that these scenes share no randomness with those for detection


def write_context(
    root: str | os.PathLike[str],
    *,
    num_train: int = 1000,
    num_val: int = 100,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write ``images/{train,val}/*.jpg``, ``labels/{train,val}/*.png`` and ``info.json`` under ``root``.

    Labels are uint8, indices into :data:`.classes.CONTEXT_CLASSES`, 255 where there is none. All else is as in
    :func:`.write_shapes.write_shapes`.
    """
    write_splits(
        root,
        partial(_write_split, seed=seed),
        (num_train, num_val),
        seed=seed,
        marker=(INFO_FILE, DESCRIPTION),
        overwrite=overwrite,
        progress=progress,
    )


def nth_context_scene(seed: int, split: str, index: int, *, exchanged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Image ``index`` of a split and its labels, as :func:`.context_scene.draw_context_scene` draws them."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index, _STREAM])
    return draw_context_scene(rng, exchanged=exchanged)


def _write_split(root: Path, split: str, indices: tqdm[int], *, seed: int) -> None:
    images, labels = root / "images" / split, root / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in indices:
        pixels, label = nth_context_scene(seed, split, index)
        Image.fromarray(pixels).save(images / f"{index + 1:06d}.jpg", quality=92)
        Image.fromarray(label).save(labels / f"{index + 1:06d}.png")
    classes = list(CONTEXT_CLASSES)
    info = {"description": DESCRIPTION, "seed": seed, "classes": classes, "ignore_label": IGNORE_LABEL}
    (root / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")
