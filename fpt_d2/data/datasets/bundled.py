"""The bundled synthetic data sets, registered with Detectron2 when this module is imported."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_sem_seg

from ...errors import DatasetError
from ..coco import load_instances
from ..labels import IGNORE_LABEL
from ..synthetic import classes
from .sem_seg import DATASETS_ROOT, register_sem_seg

SHAPES_ROOT = os.path.join(DATASETS_ROOT, "fpt_shapes")
CONTEXT_ROOT = os.path.join(DATASETS_ROOT, "fpt_context")
CONTEXT_DETECTION_ROOT = os.path.join(DATASETS_ROOT, "fpt_context_{}")  # of a difficulty
HOW_TO_GENERATE = "generate it with `python tools/generate_shapes.py`"
HOW_TO_GENERATE_CONTEXT = "generate it with `python tools/generate_shapes.py --task semantic`"
HOW_TO_GENERATE_DETECTION = "generate it with `python tools/generate_shapes.py --task context-detection`"


def register_shapes(root: str, split: str) -> None:
    """Register three data sets over the same images of a split under ``root``: instances, keypoints, panoptic."""
    _register_instances(root, f"fpt_shapes_{split}", f"instances_{split}", thing_classes=list(classes.CATEGORIES))
    _register_instances(
        root,
        f"fpt_shapes_keypoints_{split}",
        f"keypoints_{split}",
        thing_classes=[classes.KEYPOINT_CATEGORY],
        keypoint_names=list(classes.KEYPOINTS),
        keypoint_flip_map=list(classes.KEYPOINT_FLIP_MAP),
    )
    first = len(classes.CATEGORIES) + 1
    _register_instances(
        root,
        f"fpt_shapes_panoptic_{split}",
        f"instances_{split}",
        sem_seg_root=os.path.join(root, f"panoptic_stuff_{split}"),
        thing_classes=list(classes.CATEGORIES),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(classes.CATEGORIES))},
        # As in Detectron2's panoptic COCO: one label for all that the instance head is for.
        stuff_classes=["things", *classes.PATTERNS],
        stuff_dataset_id_to_contiguous_id={0: 0} | {first + i: i + 1 for i in range(len(classes.PATTERNS))},
        ignore_label=IGNORE_LABEL,
        panoptic_json=os.path.join(root, "annotations", f"panoptic_{split}.json"),
        panoptic_root=os.path.join(root, f"panoptic_{split}"),
        evaluator_type="coco_panoptic_seg",
    )


def _register_instances(root: str, name: str, annotations: str, **metadata: Any) -> None:
    json_file = os.path.join(root, "annotations", f"{annotations}.json")
    image_root = os.path.join(root, annotations.rpartition("_")[2])
    common = {"evaluator_type": "coco", "json_file": json_file, "image_root": image_root}
    metadata = common | {"how_to_get": HOW_TO_GENERATE} | metadata
    how_to_get, sem_seg_root = metadata["how_to_get"], metadata.get("sem_seg_root")
    DatasetCatalog.register(name, partial(_load_shapes, name, json_file, image_root, how_to_get, sem_seg_root))
    MetadataCatalog.get(name).set(**metadata)


def _load_shapes(
    name: str, json_file: str, image_root: str, how_to_get: str, sem_seg_root: str | None
) -> list[dict[str, Any]]:
    """The records of the annotation file; with ``sem_seg_root``, each with its labels for a semantic head."""
    _require(json_file, name, os.path.dirname(image_root), how_to_get)
    records = load_instances(json_file, image_root, name)
    if sem_seg_root is not None:
        for record in records:
            record["sem_seg_file_name"] = os.path.join(sem_seg_root, f"{Path(record['file_name']).stem}.png")
    return records


def register_context_detection(root: str, difficulty: str, split: str) -> None:
    """Register a split under ``root``.

    The metadata's ``context_classes`` are those that something far away decides, its ``cue_classes`` what that is.
    """
    ordinary, context = classes.CONTEXT_DETECTION[difficulty]
    _register_instances(
        root,
        f"fpt_context_{difficulty}_{split}",
        f"instances_{split}",
        thing_classes=[*ordinary, *context],
        context_classes=list(context),
        cue_classes=list(ordinary[2:]),
        how_to_get=HOW_TO_GENERATE_DETECTION,
    )


def _register_context(split: str) -> None:
    name = f"fpt_context_sem_seg_{split}"
    images, masks = (os.path.join(CONTEXT_ROOT, folder, split) for folder in ("images", "labels"))
    colors = [list(color) for color in classes.CONTEXT_CLASSES.values()]
    metadata = {"stuff_colors": colors, "how_to_get": HOW_TO_GENERATE_CONTEXT}
    register_sem_seg(
        name, partial(_load_context, name, images, masks), images, masks, list(classes.CONTEXT_CLASSES), **metadata
    )


def _load_context(name: str, image_root: str, sem_seg_root: str) -> list[dict[str, Any]]:
    _require(sem_seg_root, name, CONTEXT_ROOT, HOW_TO_GENERATE_CONTEXT)
    records: list[dict[str, Any]] = load_sem_seg(sem_seg_root, image_root)
    return records


def _require(path: str, name: str, root: str, how_to_get: str) -> None:
    if not os.path.exists(path):
        raise DatasetError(f"The data set {name!r} is not in {root}: {how_to_get}")


for _split in ("train", "val"):
    register_shapes(SHAPES_ROOT, _split)
    _register_context(_split)
    for _difficulty in classes.CONTEXT_DETECTION:
        register_context_detection(CONTEXT_DETECTION_ROOT.format(_difficulty), _difficulty, _split)
