"""Write a synthetic data set for detection in context: images and annotations in COCO's format, from a seed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ...errors import DatasetError
from .classes import CONTEXT_DETECTION
from .coco_format import annotation_file, coco_annotation, context_categories
from .context_detection import ASPECT, draw_context_detection
from .scene import Scene
from .staging import SPLITS, check_image_size, write_splits

IMAGE_SIZE = (96, 128)
DESCRIPTION = "Synthetic scenes for detection in context of fpt_d2: {}"
# With the difficulty's place it enters the seed: no randomness is shared with other data sets.
_STREAM = 2
# Of the training images. A relation's small crosses say the opposite of its squares: with one cross for three squares a
# detector learned neither in 1000 iterations.
_EASY_SHARE = {"presence": 0.5, "matching": 0.5, "relation": 0.75}
_MAX_OBJECTS = 100  # annotation ids of one image; a scene has far fewer


def write_context_detection(
    root: str | os.PathLike[str],
    difficulty: str,
    *,
    num_train: int = 4000,
    num_val: int = 200,
    image_size: tuple[int, int] = IMAGE_SIZE,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write images into ``train/`` and ``val/`` under ``root``, and ``annotations/instances_{train,val}.json``.

    ``difficulty`` is a key of :data:`.classes.CONTEXT_DETECTION`, which has the classes. All else is as in
    :func:`.write_shapes.write_shapes`.
    """
    if difficulty not in CONTEXT_DETECTION:
        raise DatasetError(f"difficulty must be one of {', '.join(CONTEXT_DETECTION)}, not {difficulty!r}")
    check_image_size(image_size)
    write_splits(
        root,
        partial(_write_split, difficulty=difficulty, image_size=image_size, seed=seed),
        (num_train, num_val),
        seed=seed,
        marker=(f"annotations/instances_{SPLITS[0]}.json", DESCRIPTION.format(difficulty)),
        overwrite=overwrite,
        progress=progress,
    )


def nth_detection_scene(
    seed: int,
    difficulty: str,
    split: str,
    index: int,
    image_size: tuple[int, int] = IMAGE_SIZE,
    *,
    exchanged: bool = False,
) -> Scene:
    """Image ``index`` of a split, drawn by :func:`.context_detection.draw_context_detection`.

    Of the training images half are easy, of a relation's three quarters, and none of the validation images.
    """
    stream = _STREAM + list(CONTEXT_DETECTION).index(difficulty)
    rng = np.random.default_rng([seed, SPLITS.index(split), index, stream])
    short = int(rng.integers(image_size[0], image_size[1] + 1))
    height, width = rng.permutation([short, round(short * rng.uniform(*ASPECT))]).tolist()
    easy = split == "train" and rng.random() < _EASY_SHARE[difficulty]
    return draw_context_detection(rng, height, width, difficulty, easy=easy, exchanged=exchanged)


def _write_split(
    root: Path, split: str, indices: tqdm[int], *, difficulty: str, image_size: tuple[int, int], seed: int
) -> None:
    (root / split).mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in indices:
        scene, image_id = nth_detection_scene(seed, difficulty, split, index, image_size), index + 1
        height, width = scene.pixels.shape[:2]
        file_name = f"{image_id:06d}.jpg"
        Image.fromarray(scene.pixels).save(root / split / file_name, quality=92)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1})
        for number, scene_object in enumerate(scene.objects):
            ids = {"id": image_id * _MAX_OBJECTS + number, "image_id": image_id}
            annotations.append(ids | coco_annotation(scene_object, height, width))
    (root / "annotations").mkdir(exist_ok=True)
    content = annotation_file(DESCRIPTION.format(difficulty), seed, images, annotations, context_categories(difficulty))
    (root / "annotations" / f"instances_{split}.json").write_text(content, encoding="utf-8")
