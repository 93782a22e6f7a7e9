"""Registration of a user's own data sets, named in the config: in COCO format, or images and masks in folders."""

from collections.abc import Sequence
from functools import partial

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError
from .sem_seg import load_folder, register_sem_seg

_KEY = "DATASETS.REGISTER_COCO"
_SEM_SEG_KEY = "DATASETS.REGISTER_SEM_SEG"


def register_from_config(cfg: CfgNode) -> None:
    """Register every (name, annotation file, image folder) of ``DATASETS.REGISTER_COCO``, and every (name, image
    folder, mask folder, classes) of ``DATASETS.REGISTER_SEM_SEG``.

    Registering the same again changes nothing, so that every process may call it.

    Raises:
        DatasetError: the key has another form, a file or folder is not there, or the name is taken.
    """
    for entry in cfg.DATASETS.REGISTER_COCO:
        name, json_file, image_root = _parse(entry)
        if not _is_registered(name, json_file, image_root):
            register_coco_instances(name, {"how_to_get": f"correct {_KEY}"}, json_file, image_root)
    for entry in cfg.DATASETS.REGISTER_SEM_SEG:
        _register_sem_seg(*_parse_sem_seg(entry))


def _parse(entry: Sequence[str]) -> tuple[str, str, str]:
    is_triple = isinstance(entry, (list, tuple)) and len(entry) == 3 and all(isinstance(x, str) and x for x in entry)
    if not is_triple:
        raise DatasetError(
            f'{_KEY} must be a list of (name, annotation file, image folder), as in (("my_train", "train.json", '
            f'"images"),); {entry!r} is not one.'
        )
    name, json_file, image_root = entry
    if not PathManager.isfile(json_file):
        raise DatasetError(f"{_KEY}: the annotation file of {name!r} does not exist: {json_file}")
    if not PathManager.isdir(image_root):
        raise DatasetError(f"{_KEY}: the image folder of {name!r} does not exist: {image_root}")
    return name, json_file, image_root


def _is_registered(name: str, json_file: str, image_root: str) -> bool:
    if name not in DatasetCatalog:
        return False
    metadata = MetadataCatalog.get(name)
    if (metadata.get("json_file"), metadata.get("image_root")) != (json_file, image_root):
        raise DatasetError(f"{_KEY}: the name {name!r} is taken by a data set with other files: choose another name.")
    return True


def _parse_sem_seg(entry: Sequence) -> tuple[str, str, str, tuple[str, ...]]:
    is_entry = isinstance(entry, (list, tuple)) and len(entry) == 4 and isinstance(entry[3], (list, tuple))
    if not is_entry or not all(isinstance(x, str) and x for x in (*entry[:3], *entry[3])) or not entry[3]:
        raise DatasetError(
            f'{_SEM_SEG_KEY} must be a list of (name, image folder, mask folder, classes), as in (("my_train", '
            f'"images", "masks", ("road", "sky")),); {entry!r} is not one.'
        )
    name, image_root, sem_seg_root, classes = entry
    if len(set(classes)) < len(classes):
        raise DatasetError(f"{_SEM_SEG_KEY}: {name!r} has a class twice in {tuple(classes)}.")
    for kind, folder in (("image", image_root), ("mask", sem_seg_root)):
        if not PathManager.isdir(folder):
            raise DatasetError(f"{_SEM_SEG_KEY}: the {kind} folder of {name!r} does not exist: {folder}")
    return name, image_root, sem_seg_root, tuple(classes)


def _register_sem_seg(name: str, image_root: str, sem_seg_root: str, classes: tuple[str, ...]) -> None:
    if name not in DatasetCatalog:
        load = partial(load_folder, image_root, sem_seg_root)
        register_sem_seg(name, load, image_root, sem_seg_root, classes, how_to_get=f"correct {_SEM_SEG_KEY}")
        return
    metadata = MetadataCatalog.get(name)
    registered = metadata.get("image_root"), metadata.get("sem_seg_root"), tuple(metadata.get("stuff_classes") or ())
    if registered != (image_root, sem_seg_root, classes):
        raise DatasetError(f"{_SEM_SEG_KEY}: the name {name!r} is taken by another data set: choose another name.")
