"""Data sets for semantic segmentation under ``DETECTRON2_DATASETS``, registered when this module is imported.

Pascal VOC 2012 and LIP are ours. Cityscapes and ADE20K are Detectron2's; their metadata get what ours have.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_THINGS
from detectron2.utils.file_io import PathManager

from ...paths import open_file
from ..images import IMAGE_SUFFIXES
from ..labels import IGNORE_LABEL, label_colors

logger = logging.getLogger(__name__)

# As Detectron2 finds its own data sets.
DATASETS_ROOT = Path(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")))

VOC_CLASSES = ("background", *VOC_THINGS)
VOC_SPLITS = ("train", "val", "trainaug")

LIP_CLASSES = (
    "background, hat, hair, glove, sunglasses, upper-clothes, dress, coat, socks, pants, jumpsuits, scarf, skirt, "
    "face, left-arm, right-arm, left-leg, right-leg, left-shoe, right-shoe"
).split(", ")
LIP_FLIP_MAP = tuple((f"left-{part}", f"right-{part}") for part in ("arm", "leg", "shoe"))
LIP_SPLITS = ("train", "val")
LIP_FOLDERS = {"images": "TrainVal_images/{}_images", "masks": "TrainVal_parsing_annotations/{}_segmentations"}


def load_folder(image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    """A record of every image in a folder; the mask of ``x.jpg`` is ``x.png``. Logs how many masks have no image."""
    names = sorted(name for name in PathManager.ls(image_root) if name.lower().endswith(IMAGE_SUFFIXES))
    masks = PathManager.ls(sem_seg_root) if PathManager.isdir(sem_seg_root) else []
    unused = {name for name in masks if name.endswith(".png")}.difference(f"{Path(name).stem}.png" for name in names)
    if unused and names:
        logger.warning("Left out: %d masks without an image in %s, such as %r", len(unused), image_root, min(unused))
    return [_record(os.path.join(image_root, name), sem_seg_root, Path(name).stem) for name in names]


def load_list(list_file: str, image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    """A record of every image of a list."""
    names = read_names(list_file)
    return [_record(os.path.join(image_root, f"{name}.jpg"), sem_seg_root, name) for name in names]


def read_names(list_file: str | Path) -> list[str]:
    """The first word of each line, without folder and suffix."""
    with open_file(list_file, "r") as file:
        return [Path(line.split()[0]).stem for line in file if line.strip()]


def _record(image: str, sem_seg_root: str, name: str) -> dict[str, Any]:
    return {"file_name": image, "sem_seg_file_name": os.path.join(sem_seg_root, f"{name}.png"), "image_id": name}


def register_sem_seg(
    name: str,
    load: Callable[[], list[dict[str, Any]]],
    image_root: str,
    sem_seg_root: str,
    classes: Sequence[str],
    **metadata: Any,
) -> None:
    """Register a data set whose masks hold indices into ``classes``, 255 for none.

    ``metadata`` are what else to set, such as ``how_to_get``, ``stuff_colors`` and ``stuff_flip_map``.
    """
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        stuff_classes=list(classes),
        ignore_label=IGNORE_LABEL,
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        evaluator_type="sem_seg",
        **{"stuff_colors": label_colors(len(classes)), **metadata},
    )


def _how_to_get(command: str) -> str:
    return f"prepare it with `python tools/prepare_sem_seg.py {command}`"


def _register_voc(split: str) -> None:
    root = DATASETS_ROOT / "VOC2012"
    images, masks = str(root / "JPEGImages"), str(root / "SegmentationClassAug")
    load = partial(load_list, str(root / "ImageSets" / "Segmentation" / f"{split}.txt"), images, masks)
    register_sem_seg(f"voc_2012_sem_seg_{split}", load, images, masks, VOC_CLASSES, how_to_get=_how_to_get("voc"))


def _register_lip(split: str) -> None:
    images, masks = (str(DATASETS_ROOT / "LIP" / LIP_FOLDERS[kind].format(split)) for kind in ("images", "masks"))
    metadata = {"stuff_flip_map": LIP_FLIP_MAP, "how_to_get": _how_to_get("lip")}
    load = partial(load_folder, images, masks)
    register_sem_seg(f"lip_sem_seg_{split}", load, images, masks, LIP_CLASSES, **metadata)


def _add_metadata(name: str, **more: Any) -> None:
    """Set what Detectron2 does not set itself."""
    metadata = MetadataCatalog.get(name)
    metadata.set(**{key: value for key, value in more.items() if metadata.get(key) is None})


for _split in VOC_SPLITS:
    _register_voc(_split)
for _split in LIP_SPLITS:
    _register_lip(_split)
for _split in ("train", "val", "test"):
    _add_metadata(
        f"cityscapes_fine_sem_seg_{_split}",
        stuff_colors=[category["color"] for category in CITYSCAPES_CATEGORIES],
        stuff_dataset_id_to_contiguous_id={category["id"]: category["trainId"] for category in CITYSCAPES_CATEGORIES},
        how_to_get=_how_to_get("cityscapes"),
    )
for _split in ("train", "val"):
    _add_metadata(
        f"ade20k_sem_seg_{_split}",
        stuff_colors=label_colors(151)[1:],
        stuff_dataset_id_to_contiguous_id={label + 1: label for label in range(150)},  # in its files 0 is none
        how_to_get=_how_to_get("ade20k"),
    )
