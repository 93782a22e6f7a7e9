"""Registration of a user's own data sets, named in the config: in COCO format, or images and masks in folders."""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError
from ...paths import what_is_there
from ..coco import use_what_is_read
from .sem_seg import load_folder, register_sem_seg

_COCO, _SEM_SEG = "DATASETS.REGISTER_COCO", "DATASETS.REGISTER_SEM_SEG"


def register_from_config(cfg: CfgNode) -> None:
    """Register every (name, annotation file, image folder) of ``DATASETS.REGISTER_COCO``, and every (name, image
    folder, mask folder, classes) of ``DATASETS.REGISTER_SEM_SEG``.

    With ``DATASETS.CHECK`` the annotation files of ``DATASETS.TRAIN`` and ``TEST`` are read by :mod:`fpt_d2.data.coco`.
    Registering the same again changes nothing, so that every process may call it. Raises DatasetError if the key has
    another form, a file or folder does not exist, or the name is taken.
    """
    for entry in cfg.DATASETS.REGISTER_COCO:
        _register_coco(entry)
    for entry in cfg.DATASETS.REGISTER_SEM_SEG:
        _register_sem_seg(entry)
    if cfg.DATASETS.CHECK:
        use_what_is_read(cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)


def _register_coco(entry: Any) -> None:
    if not _is_texts(entry) or len(entry) != 3:
        raise DatasetError(
            f'{_COCO} must be a list of (name, annotation file, image folder), as in (("my_train", "train.json", '
            f'"images"),); {entry!r} is not one'
        )
    name, json_file, image_root = entry
    if not PathManager.isfile(json_file):
        what = what_is_there(json_file)
        raise DatasetError(f"{_COCO}: the annotation file of {name!r} {what}: {json_file}")
    _require_folder(_COCO, name, "image", image_root)
    if _is_new(_COCO, name, json_file=json_file, image_root=image_root):
        register_coco_instances(name, {"how_to_get": f"correct {_COCO}"}, json_file, image_root)


def _register_sem_seg(entry: Any) -> None:
    is_four = isinstance(entry, (list, tuple)) and len(entry) == 4
    if not is_four or not _is_texts(entry[:3]) or not _is_texts(entry[3]):
        raise DatasetError(
            f'{_SEM_SEG} must be a list of (name, image folder, mask folder, classes), as in (("my_train", '
            f'"images", "masks", ("road", "sky")),); {entry!r} is not one'
        )
    name, images, masks, classes = entry
    if len(set(classes)) < len(classes):
        raise DatasetError(f"{_SEM_SEG}: {name!r} has a class twice in {tuple(classes)}")
    _require_folder(_SEM_SEG, name, "image", images)
    _require_folder(_SEM_SEG, name, "mask", masks)
    if _is_new(_SEM_SEG, name, image_root=images, sem_seg_root=masks, stuff_classes=list(classes)):
        load = partial(load_folder, images, masks)
        register_sem_seg(name, load, images, masks, classes, how_to_get=f"correct {_SEM_SEG}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(x, str) and x for x in value)


def _require_folder(key: str, name: str, kind: str, folder: str) -> None:
    if not PathManager.isdir(folder):
        raise DatasetError(f"{key}: the {kind} folder of {name!r} {what_is_there(folder)}: {folder}")


def _is_new(key: str, name: str, **wanted: Any) -> bool:
    """Whether a name is free, and not that of the same data set already. DatasetError if it is that of another one."""
    if name not in DatasetCatalog:
        return True
    metadata = MetadataCatalog.get(name)
    if {attribute: metadata.get(attribute) for attribute in wanted} != wanted:
        raise DatasetError(f"{key}: the name {name!r} is taken by another data set: choose another name")
    return False
