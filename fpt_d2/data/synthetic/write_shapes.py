"""Write the synthetic data set of shapes: images and annotations in COCO's format, from a seed."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from .classes import CATEGORIES, KEYPOINT_CATEGORY, PATTERNS
from .coco_format import annotation_file, categories_of, coco_annotation, coco_keypoints, panoptic_segments
from .scene import MAX_SHAPES, Scene, draw_scene
from .staging import SPLITS, check_image_size, write_splits

DESCRIPTION = "Synthetic shapes of fpt_d2"

_MAX_ASPECT = 1.6
_EMPTY_EVERY, _CROWD_EVERY, _PNG_EVERY = 25, 12, 4
_MAX_OBJECTS = 100  # annotation ids of one image; a scene has far fewer

Record = dict[str, Any]


def write_shapes(
    root: str | os.PathLike[str],
    *,
    num_train: int = 600,
    num_val: int = 200,
    image_size: tuple[int, int] = (96, 160),
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Write images into ``train/`` and ``val/`` under ``root``, and ``annotations/*.json`` for them in COCO's format.

    The latter are ``instances_{train,val}.json``; ``keypoints_{train,val}.json``, of stars only; and
    ``panoptic_{train,val}.json`` for the segments in ``panoptic_{train,val}/``. Labels for the semantic head of a
    panoptic model are in ``panoptic_stuff_{train,val}/``, as Detectron2's script makes them for COCO: 0 on every shape,
    the backgrounds from 1.

    The same seed gives the same bytes (with the same versions of numpy, OpenCV and Pillow), and image i of a split
    is the same however many there are. The folder appears only when it is complete.

    Args:
        image_size: smallest and largest short side of an image, in pixels.
        seed: of all randomness, not negative.
        overwrite: replace the synthetic data set that is there already.
        progress: show a progress bar.

    Raises:
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is something else.
        DatasetError: a size or a number is out of range.
    """
    check_image_size(image_size)
    write_splits(
        root,
        partial(_write_split, image_size=image_size, seed=seed),
        (num_train, num_val),
        seed=seed,
        marker=(f"annotations/instances_{SPLITS[0]}.json", DESCRIPTION),
        overwrite=overwrite,
        progress=progress,
    )


def nth_shapes_scene(seed: int, split: str, index: int, image_size: tuple[int, int] = (96, 160)) -> Scene:
    """Image ``index`` of a split."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    short = int(rng.integers(image_size[0], image_size[1] + 1))
    size = [short, round(short * rng.uniform(1.0, _MAX_ASPECT))]
    height, width = rng.permutation(size).tolist()
    # By index rather than by chance: a small data set has them too.
    empty = index % _EMPTY_EVERY == _EMPTY_EVERY - 1
    crowd = not empty and index % _CROWD_EVERY == _CROWD_EVERY - 1
    num_shapes = 0 if empty else int(rng.integers(1, MAX_SHAPES + 1))
    return draw_scene(rng, height, width, num_shapes=num_shapes, crowd=crowd)


def _write_split(root: Path, split: str, indices: tqdm[int], *, image_size: tuple[int, int], seed: int) -> None:
    for folder in (split, f"panoptic_{split}", f"panoptic_stuff_{split}"):
        (root / folder).mkdir()
    images: list[Record] = []
    annotations: dict[str, list[Record]] = {"instances": [], "keypoints": [], "panoptic": []}
    for index in indices:
        scene, image_id = nth_shapes_scene(seed, split, index, image_size), index + 1
        height, width = scene.pixels.shape[:2]
        file_name = f"{image_id:06d}.{'png' if index % _PNG_EVERY == _PNG_EVERY - 1 else 'jpg'}"
        Image.fromarray(scene.pixels).save(root / split / file_name, quality=92)
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width, "license": 1})
        for number, scene_object in enumerate(scene.objects):
            ids = {"id": image_id * _MAX_OBJECTS + number, "image_id": image_id}
            annotation = ids | coco_annotation(scene_object, height, width)
            annotations["instances"].append(annotation)
            if CATEGORIES[scene_object.category] == KEYPOINT_CATEGORY:
                annotations["keypoints"].append(annotation | coco_keypoints(scene_object, height, width))
        annotations["panoptic"].append(_write_panoptic(root, split, image_id, scene))
    (root / "annotations").mkdir(exist_ok=True)
    for kind, records in annotations.items():
        content = annotation_file(DESCRIPTION, seed, images, records, categories_of(kind))
        (root / "annotations" / f"{kind}_{split}.json").write_text(content, encoding="utf-8")


def _write_panoptic(root: Path, split: str, image_id: int, scene: Scene) -> Record:
    """Write an image's segments, and its labels for a semantic head; return its panoptic annotation."""
    file_name = f"{image_id:06d}.png"
    ids, segments = panoptic_segments(scene)
    # COCO: id = R + 256 G + 256^2 B
    Image.fromarray(np.stack([ids, 0 * ids, 0 * ids], axis=2)).save(root / f"panoptic_{split}" / file_name)
    labels = np.where(ids == len(scene.objects) + 1, 1 + PATTERNS.index(scene.background), 0).astype(np.uint8)
    Image.fromarray(labels).save(root / f"panoptic_stuff_{split}" / file_name)
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}
