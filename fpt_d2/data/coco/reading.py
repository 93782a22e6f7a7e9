"""From an annotation file to what Detectron2 asks for: records to train with, and the truth to evaluate with.

A file is read once in a process. What was read stays in memory until it was made into records, or for good where it is
evaluated with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from ...errors import DatasetError
from .file import CocoFile, parse, without_collection
from .meaning import check_meaning
from .schema import Record

logger = logging.getLogger(__name__)

# By file: what tells it from a later version, and its content.
_READ: dict[str, tuple[object, CocoFile]] = {}
# Files that are kept in memory.
_EVALUATED: set[str] = set()


def read_coco(json_file: str) -> CocoFile:
    """The content of an annotation file and what is wrong with it, as far as its use does not matter.

    Raises:
        DatasetError: it is not an object in JSON.
    """
    version = _version(json_file)
    if json_file not in _READ or _READ[json_file][0] != version:
        _READ.pop(json_file, None)
        content = parse(json_file)
        check_meaning(content)
        _READ[json_file] = version, content
    return _READ[json_file][1]


def _version(json_file: str) -> object:
    if not PathManager.isfile(json_file):
        return None
    status = os.stat(PathManager.get_local_path(json_file))
    return status.st_mtime_ns, status.st_size


def use_what_is_read(train: Iterable[str], test: Iterable[str]) -> None:
    """Have data sets that Detectron2 would read by its ``load_coco_json`` read by :func:`load_instances`.

    ``test`` are evaluated, so that their files are kept in memory.
    """
    test = list(test)
    for name in (*train, *test):
        # A function of someone else's may do more than to read the file.
        if name in DatasetCatalog and getattr(DatasetCatalog[name], "__module__", "") == load_coco_json.__module__:
            metadata = MetadataCatalog.get(name)
            load = partial(load_instances, metadata.json_file, metadata.image_root, name)
            DatasetCatalog.pop(name)
            DatasetCatalog.register(name, load)
    files = (MetadataCatalog.get(name).get("json_file") for name in test)
    _EVALUATED.update(file for file in files if file)


def load_instances(json_file: str, image_root: str, name: str) -> list[Record]:
    """Detectron2's records of a data set, as its ``load_coco_json`` returns them; metadata get the names of classes.

    Raises:
        DatasetError: something is wrong with the file.
    """
    content = _whole(json_file)
    is_kept = json_file in _EVALUATED
    if not is_kept:
        del _READ[json_file]
    categories = content.sorted_categories()
    number_of = {category["id"]: number for number, category in enumerate(categories)}
    metadata = MetadataCatalog.get(name)
    metadata.thing_classes = [category["name"] for category in categories]
    metadata.thing_dataset_id_to_contiguous_id = number_of
    with without_collection():
        objects: dict[Any, list[Record]] = {image["id"]: [] for image in content.images}
        for annotation in content.annotations:
            objects[annotation["image_id"]].append(_object(annotation, number_of))
            if not is_kept:
                annotation.clear()  # memory for the lists
        records = [
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": objects[image["id"]],
            }
            for image in sorted(content.images, key=lambda image: image["id"])
        ]
    logger.info("Loaded %d images in COCO format from %s", len(records), json_file)
    return records


def ground_truth(json_file: str) -> COCO | None:
    """What pycocotools evaluates with, for a file of :func:`use_what_is_read`'s ``test``; None for any other.

    Evaluations change it, so that each needs one of its own.
    """
    if json_file not in _EVALUATED:
        return None
    content, api = _whole(json_file), COCO()
    api.dataset = {"images": content.images, "categories": content.categories}
    if content.annotations:
        # num_keypoints of an object without keypoints is 0 as well.
        defaults = {"iscrowd": 0, "num_keypoints": 0}
        api.dataset["annotations"] = [{**defaults, **annotation} for annotation in content.annotations]
    api.createIndex()
    return api


def _whole(json_file: str) -> CocoFile:
    content = read_coco(json_file)
    if content.errors.counts:
        raise DatasetError(f"{json_file} has mistakes: " + "; ".join(content.errors.lines()))
    return content


def _object(annotation: Record, number_of: dict[Any, int]) -> Record:
    """An object as Detectron2 describes it, from an annotation."""
    result = {"bbox": annotation["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "iscrowd": annotation.get("iscrowd", 0)}
    result["category_id"] = number_of[annotation["category_id"]]
    mask, keypoints = annotation.get("segmentation"), annotation.get("keypoints")
    if isinstance(mask, dict):
        has_runs = isinstance(mask["counts"], list)
        result["segmentation"] = mask_util.frPyObjects(mask, *mask["size"]) if has_runs else mask
    elif mask:
        result["segmentation"] = [polygon.tolist() for polygon in mask]
    if keypoints:
        # COCO numbers pixels; as lengths, their centers are half a pixel further. Visibilities stay.
        result["keypoints"] = [value + 0.5 * (i % 3 != 2) for i, value in enumerate(keypoints)]
    return result
