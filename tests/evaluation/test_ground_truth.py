"""What is evaluated with is what the check of the data set has read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpt_d2.data import check_datasets, register_from_config
from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.engine import get_default_config
from fpt_d2.evaluation import build_evaluator

NAME = "from_zero"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=2, num_val=6, image_size=(64, 112), seed=4, progress=False)
    return root


@pytest.fixture
def from_zero(shapes: Path, tmp_path: Path) -> Iterator[tuple[CfgNode, Path]]:
    """A config whose test set numbers annotations from 0 and writes whole numbers with a decimal point."""
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation |= {"id": number, "category_id": float(annotation["category_id"])}
    for image in content["images"]:
        image["width"] = float(image["width"])
    json_file = tmp_path / "instances.json"
    json_file.write_text(json.dumps(content))
    cfg = get_default_config()
    cfg.DATASETS.REGISTER_COCO = ((NAME, str(json_file), str(shapes / "val")),)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.OUTPUT_DIR = (), (NAME,), str(tmp_path)
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES = True, 6
    yield cfg, json_file
    DatasetCatalog.pop(NAME, None)
    MetadataCatalog.pop(NAME, None)


def perfect(record: dict[str, Any], coco: COCO, number_of: dict[int, int]) -> Instances:
    truth = coco.loadAnns(coco.getAnnIds(record["image_id"]))
    boxes = np.array([annotation["bbox"] for annotation in truth]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor(boxes))
    instances.scores = torch.ones(len(truth))
    instances.pred_classes = torch.tensor([number_of[a["category_id"]] for a in truth])
    instances.pred_masks = torch.tensor(np.array([coco.annToMask(a) for a in truth]), dtype=torch.bool)
    return instances


def ap_of_pycocotools(content: dict[str, Any], results: list[dict[str, Any]]) -> float:
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return 100 * float(evaluation.stats[0])


def test_ids_from_0_cost_no_precision(from_zero: tuple[CfgNode, Path], shapes: Path, tmp_path: Path) -> None:
    cfg, json_file = from_zero
    register_from_config(cfg)
    check_datasets(cfg, eval_only=True)
    records, coco = DatasetCatalog.get(NAME), COCO(shapes / "annotations" / "instances_val.json")
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in records:
        number_of = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
        evaluator.process([record], [{"instances": perfect(record, coco, number_of)}])
    results = evaluator.evaluate()
    saved = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    as_it_stands = json.loads(json_file.read_text())
    assert ap_of_pycocotools(as_it_stands, saved) < 99  # what pycocotools makes of the file
    for annotation in as_it_stands["annotations"]:
        annotation["id"] += 1
    assert ap_of_pycocotools(as_it_stands, saved) == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100) and results["segm"]["AP"] == pytest.approx(100)


def test_each_evaluation_has_a_truth_of_its_own(from_zero: tuple[CfgNode, Path], shapes: Path) -> None:
    """pycocotools changes what it evaluates with."""
    cfg, _ = from_zero
    register_from_config(cfg)
    coco = COCO(shapes / "annotations" / "instances_val.json")
    figures = []
    for _ in range(2):
        records, evaluator = DatasetCatalog.get(NAME), build_evaluator(cfg, NAME)
        evaluator.reset()
        for record in records:
            instances = perfect(record, coco, MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id)
            evaluator.process([record], [{"instances": instances}])
        figures.append(evaluator.evaluate())
    assert str(figures[0]) == str(figures[1])  # NaN is not equal to itself


def test_records_are_those_of_detectron2(shapes: Path, from_zero: tuple[CfgNode, Path]) -> None:
    """On files that Detectron2 reads too: polygons, keypoints, and RLE as runs."""
    cfg, _ = from_zero
    for kind in ("instances", "keypoints"):
        json_file, images = str(shapes / "annotations" / f"{kind}_val.json"), str(shapes / "val")
        name = f"{NAME}_{kind}"
        cfg.DATASETS.REGISTER_COCO, cfg.DATASETS.TEST = ((name, json_file, images),), (name,)
        register_from_config(cfg)
        ours, theirs = DatasetCatalog.get(name), load_coco_json(json_file, images, name)
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        assert len(ours) == len(theirs) == 6
        for record, expected in zip(ours, theirs, strict=True):
            assert record == expected
