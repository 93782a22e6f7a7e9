"""Public sets of real photographs, as ``fpt-prepare`` writes them, registered when this module is imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg

from ...cli import spelled
from ...errors import DatasetError
from ..coco import load_instances
from ..photographs import classes
from .sem_seg import DATASETS_ROOT, register_sem_seg


def _how_to_get(command: str) -> str:
    return f"download it and prepare it with `{spelled('fpt-prepare')} {command}` (docs/datasets.md)"


def _register_camvid(split: str) -> None:
    name, root = f"camvid_sem_seg_{split}", os.path.join(DATASETS_ROOT, "camvid")
    images, masks = (os.path.join(root, folder, split) for folder in ("images", "labels"))
    load = partial(_load_camvid, name, images, masks)
    colors = list(classes.CAMVID_CLASSES.values())
    names, how_to_get = list(classes.CAMVID_CLASSES), _how_to_get("camvid FOLDER")
    register_sem_seg(name, load, images, masks, names, stuff_colors=colors, how_to_get=how_to_get)


def _load_camvid(name: str, images: str, masks: str) -> list[dict[str, Any]]:
    _require(name, masks)
    records: list[dict[str, Any]] = load_sem_seg(masks, images, image_ext="png")
    return records


def _register_instances(folder: str, split: str, thing_classes: Sequence[str], command: str) -> None:
    name, root = f"{folder}_{split}", os.path.join(DATASETS_ROOT, folder)
    files = {
        "json_file": os.path.join(root, "annotations", f"instances_{split}.json"),
        "image_root": os.path.join(root, "images"),
    }
    DatasetCatalog.register(name, partial(_load_instances, name, **files))
    how_to_get = _how_to_get(command)
    MetadataCatalog.get(name).set(
        thing_classes=list(thing_classes), evaluator_type="coco", how_to_get=how_to_get, **files
    )


def _load_instances(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    _require(name, json_file)
    return load_instances(json_file, image_root, name)


def _require(name: str, path: str) -> None:
    if not os.path.exists(path):
        how_to_get = MetadataCatalog.get(name).how_to_get
        raise DatasetError(f"The data set {name!r} is not there, {path} does not exist: {how_to_get}")


for _split in classes.CAMVID_SPLITS:
    _register_camvid(_split)
for _split in classes.NUCLEI_SPLITS:
    _register_instances("nuclei", _split, classes.NUCLEI_CLASSES, "nuclei FOLDER")
for _split in classes.BCCD_SPLITS:
    _register_instances("bccd", _split, classes.BCCD_CLASSES, "voc FOLDER --name bccd")
