"""Registration of a user's own data sets in COCO format, named in the config."""

from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.file_io import PathManager

from .errors import DatasetError

_KEY = "DATASETS.REGISTER_COCO"


def register_from_config(cfg: CfgNode) -> None:
    """Register every (name, annotation file, image folder) of ``DATASETS.REGISTER_COCO``.

    Registering the same again changes nothing, so that every process may call it.

    Raises:
        DatasetError: the key has another form, a file or folder is not there, or the name is taken.
    """
    for entry in cfg.DATASETS.REGISTER_COCO:
        name, json_file, image_root = _parse(entry)
        if not _is_registered(name, json_file, image_root):
            register_coco_instances(name, {}, json_file, image_root)


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
