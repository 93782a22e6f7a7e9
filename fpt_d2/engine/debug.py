"""Debug mode: a training in miniature, of which nothing is kept."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def use_debug_settings(cfg: CfgNode) -> None:
    """Make ``cfg`` train and evaluate on ``DEBUG.NUM_IMAGES`` images for ``DEBUG.MAX_ITER`` iterations.

    Args:
        cfg: changed in place. Its OUTPUT_DIR becomes a folder that is gone when the process ends.
    """
    number = cfg.DEBUG.NUM_IMAGES
    cfg.DATASETS.TRAIN = tuple(_register_subset(name, number) for name in cfg.DATASETS.TRAIN)
    cfg.DATASETS.TEST = tuple(_register_subset(name, number) for name in cfg.DATASETS.TEST)
    cfg.SOLVER.MAX_ITER = cfg.DEBUG.MAX_ITER
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
    cfg.TEST.EXPECTED_RESULTS = []
    cfg.OUTPUT_DIR = tempfile.mkdtemp(prefix="fpt_debug_")
    atexit.register(shutil.rmtree, cfg.OUTPUT_DIR, ignore_errors=True)


def _register_subset(name: str, number: int) -> str:
    """Register the first images of a data set as one of its own, so that its evaluation is of these images alone."""
    subset = f"{name}_first_{number}"
    if subset not in DatasetCatalog:
        DatasetCatalog.register(subset, partial(_load_subset, name, subset, number))
    return subset


def _load_subset(name: str, subset: str, number: int) -> list[dict[str, Any]]:
    dicts = DatasetCatalog.get(name)
    metadata = MetadataCatalog.get(name).as_dict()
    del metadata["name"]
    if metadata.get("evaluator_type") == "coco":
        # The evaluator then writes an annotation file of these images.
        metadata.pop("json_file", None)
    MetadataCatalog.get(subset).set(**metadata)
    annotated = [record for record in dicts if any(not a.get("iscrowd") for a in record.get("annotations", ()))]
    return (annotated or dicts)[:number]
