"""Public sets of real photographs, as ``tools/prepare.py`` writes them, registered when this module is imported."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from detectron2.data.datasets import load_sem_seg

from ...errors import DatasetError
from ..photographs.camvid import CAMVID_CLASSES, CAMVID_IMAGES
from .sem_seg import DATASETS_ROOT, register_sem_seg


def _how_to_get(command: str) -> str:
    return f"download it and prepare it with `python tools/prepare.py {command}` (docs/datasets.md)"


def _register_camvid(split: str) -> None:
    name, root = f"camvid_sem_seg_{split}", os.path.join(DATASETS_ROOT, "camvid")
    images, masks = (os.path.join(root, folder, split) for folder in ("images", "labels"))
    colors, how_to_get = list(CAMVID_CLASSES.values()), _how_to_get("camvid FOLDER")
    load = partial(_load_sem_seg, name, images, masks, how_to_get)
    register_sem_seg(name, load, images, masks, list(CAMVID_CLASSES), stuff_colors=colors, how_to_get=how_to_get)


def _load_sem_seg(name: str, images: str, masks: str, how_to_get: str) -> list[dict[str, Any]]:
    if not os.path.isdir(masks):
        raise DatasetError(f"The data set {name!r} is not there, {masks} does not exist: {how_to_get}")
    records: list[dict[str, Any]] = load_sem_seg(masks, images, image_ext="png")
    return records


for _split in CAMVID_IMAGES:
    _register_camvid(_split)
