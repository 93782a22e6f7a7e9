"""The synthetic data sets, registered with Detectron2 when this module is imported."""

import os
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg

from .context_scene import CLASS_COLORS, CLASSES, IGNORE_LABEL
from .errors import DatasetError
from .shapes import CATEGORIES

# As Detectron2 finds its own data sets.
_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
SHAPES_ROOT = os.path.join(_ROOT, "fpt_shapes")
CONTEXT_ROOT = os.path.join(_ROOT, "fpt_context")
HOW_TO_GENERATE = "generate it with `python tools/generate_shapes.py`"
HOW_TO_GENERATE_CONTEXT = "generate it with `python tools/generate_shapes.py --task semantic`"


def _load_shapes(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    if not os.path.isfile(json_file):
        raise DatasetError(f"The data set {name!r} is not in {SHAPES_ROOT}: {HOW_TO_GENERATE}.")
    return load_coco_json(json_file, image_root, name)


def _load_context(name: str, image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    if not os.path.isdir(sem_seg_root):
        raise DatasetError(f"The data set {name!r} is not in {CONTEXT_ROOT}: {HOW_TO_GENERATE_CONTEXT}.")
    return load_sem_seg(sem_seg_root, image_root)


def _register_shapes(split: str) -> None:
    name, image_root = f"fpt_shapes_{split}", os.path.join(SHAPES_ROOT, split)
    json_file = os.path.join(SHAPES_ROOT, "annotations", f"instances_{split}.json")
    DatasetCatalog.register(name, partial(_load_shapes, name, json_file, image_root))
    MetadataCatalog.get(name).set(
        thing_classes=list(CATEGORIES),
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        how_to_get=HOW_TO_GENERATE,
    )


def _register_context(split: str) -> None:
    name = f"fpt_context_sem_seg_{split}"
    image_root, sem_seg_root = (os.path.join(CONTEXT_ROOT, folder, split) for folder in ("images", "labels"))
    DatasetCatalog.register(name, partial(_load_context, name, image_root, sem_seg_root))
    MetadataCatalog.get(name).set(
        stuff_classes=list(CLASSES),
        stuff_colors=[list(color) for color in CLASS_COLORS],
        ignore_label=IGNORE_LABEL,
        image_root=image_root,
        sem_seg_root=sem_seg_root,
        evaluator_type="sem_seg",
        how_to_get=HOW_TO_GENERATE_CONTEXT,
    )


for _split in ("train", "val"):
    _register_shapes(_split)
    _register_context(_split)
