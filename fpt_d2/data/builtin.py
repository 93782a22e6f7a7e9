"""The synthetic data set of shapes, registered with Detectron2 when this module is imported."""

import os
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .errors import DatasetError
from .shapes import CATEGORIES

# As Detectron2 finds its own data sets.
SHAPES_ROOT = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), "fpt_shapes")
HOW_TO_GENERATE = "generate it with `python tools/generate_shapes.py`"


def _load(name: str, json_file: str, image_root: str) -> list[dict[str, Any]]:
    if not os.path.isfile(json_file):
        raise DatasetError(f"The data set {name!r} is not in {SHAPES_ROOT}: {HOW_TO_GENERATE}.")
    return load_coco_json(json_file, image_root, name)


def _register(split: str) -> None:
    name, image_root = f"fpt_shapes_{split}", os.path.join(SHAPES_ROOT, split)
    json_file = os.path.join(SHAPES_ROOT, "annotations", f"instances_{split}.json")
    DatasetCatalog.register(name, partial(_load, name, json_file, image_root))
    MetadataCatalog.get(name).set(
        thing_classes=list(CATEGORIES),
        json_file=json_file,
        image_root=image_root,
        evaluator_type="coco",
        how_to_get=HOW_TO_GENERATE,
    )


for _split in ("train", "val"):
    _register(_split)
