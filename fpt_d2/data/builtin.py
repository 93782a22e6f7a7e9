"""The synthetic data sets, registered with Detectron2 when this module is imported."""

import os
from functools import partial
from typing import Any, Optional

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, load_sem_seg

from .backgrounds import PATTERNS
from .context_scene import CLASS_COLORS, CLASSES, IGNORE_LABEL
from .errors import DatasetError
from .shapes import CATEGORIES, KEYPOINT_CATEGORY, KEYPOINT_FLIP_MAP, KEYPOINTS

# As Detectron2 finds its own data sets.
_ROOT = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
SHAPES_ROOT = os.path.join(_ROOT, "fpt_shapes")
CONTEXT_ROOT = os.path.join(_ROOT, "fpt_context")
HOW_TO_GENERATE = "generate it with `python tools/generate_shapes.py`"
HOW_TO_GENERATE_CONTEXT = "generate it with `python tools/generate_shapes.py --task semantic`"


def _load_shapes(
    name: str, json_file: str, image_root: str, sem_seg_root: Optional[str] = None
) -> list[dict[str, Any]]:
    """In Detectron2's format; with ``sem_seg_root``, each image with its labels for a semantic head."""
    if not os.path.isfile(json_file):
        raise DatasetError(f"The data set {name!r} is not in {SHAPES_ROOT}: {HOW_TO_GENERATE}.")
    records = load_coco_json(json_file, image_root, name)
    for record in records if sem_seg_root is not None else ():
        stem = os.path.splitext(os.path.basename(record["file_name"]))[0]
        record["sem_seg_file_name"] = os.path.join(sem_seg_root, f"{stem}.png")
    return records


def _load_context(name: str, image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    if not os.path.isdir(sem_seg_root):
        raise DatasetError(f"The data set {name!r} is not in {CONTEXT_ROOT}: {HOW_TO_GENERATE_CONTEXT}.")
    return load_sem_seg(sem_seg_root, image_root)


def _register_shapes(split: str) -> None:
    """Three data sets over the same images: instances, keypoints of stars, panoptic."""
    _register_instances(f"fpt_shapes_{split}", f"instances_{split}.json", split, thing_classes=list(CATEGORIES))
    _register_instances(
        f"fpt_shapes_keypoints_{split}",
        f"keypoints_{split}.json",
        split,
        thing_classes=[KEYPOINT_CATEGORY],
        keypoint_names=list(KEYPOINTS),
        keypoint_flip_map=list(KEYPOINT_FLIP_MAP),
    )
    sem_seg_root = os.path.join(SHAPES_ROOT, f"panoptic_stuff_{split}")
    first = len(CATEGORIES) + 1
    _register_instances(
        f"fpt_shapes_panoptic_{split}",
        f"instances_{split}.json",
        split,
        sem_seg_root=sem_seg_root,
        thing_classes=list(CATEGORIES),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CATEGORIES))},
        # As in Detectron2's panoptic COCO: one label for all that the instance head is for.
        stuff_classes=["things", *PATTERNS],
        stuff_dataset_id_to_contiguous_id={0: 0} | {first + i: i + 1 for i in range(len(PATTERNS))},
        ignore_label=IGNORE_LABEL,
        panoptic_json=os.path.join(SHAPES_ROOT, "annotations", f"panoptic_{split}.json"),
        panoptic_root=os.path.join(SHAPES_ROOT, f"panoptic_{split}"),
        evaluator_type="coco_panoptic_seg",
    )


def _register_instances(
    name: str, json_name: str, split: str, *, sem_seg_root: Optional[str] = None, **metadata: Any
) -> None:
    json_file, image_root = os.path.join(SHAPES_ROOT, "annotations", json_name), os.path.join(SHAPES_ROOT, split)
    DatasetCatalog.register(name, partial(_load_shapes, name, json_file, image_root, sem_seg_root))
    if sem_seg_root is not None:
        metadata["sem_seg_root"] = sem_seg_root
    common = {"evaluator_type": "coco", "json_file": json_file, "image_root": image_root}
    MetadataCatalog.get(name).set(**common | {"how_to_get": HOW_TO_GENERATE} | metadata)


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
