"""The figures of faster-coco-eval are those of pycocotools."""

import copy
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import coco_evaluation
from detectron2.structures import Boxes, Instances

from fpt_d2.engine import get_default_config
from fpt_d2.errors import ConfigError
from fpt_d2.evaluation import build_evaluator
from fpt_d2.evaluation.coco import check_api, faster_coco_eval

NAME, SIZE, KEYPOINTS = "evaluated_by_both", (60, 80), 5
CLASSES = ("a", "b", "c", "without an object")
Found = list[tuple[dict[str, Any], dict[str, Instances]]]

installed = pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="needs the package faster-coco-eval"
)


def box(rng: np.random.Generator) -> np.ndarray:
    corner, sides = rng.uniform(0, (40, 30)), rng.uniform(1, (40, 30))
    return np.concatenate([corner, sides])


def pixels(box: np.ndarray) -> np.ndarray:
    mask, (x, y, w, h) = np.zeros(SIZE, dtype=np.uint8, order="F"), box.astype(int)
    mask[y : y + h + 1, x : x + w + 1] = 1
    return mask


def segmentation(box: np.ndarray, kind: str) -> Any:
    x, y, w, h = box.tolist()
    if kind == "polygons":
        return [[x, y, x + w, y, x + w / 2, y + h], [x, y + h, x + w, y + h, x + w / 2, y + h / 2]]
    rle = mask_util.encode(pixels(box))
    if kind == "RLE":
        return {"size": SIZE, "counts": rle["counts"].decode()}
    flat = mask_util.decode(rle).flatten("F")
    ends = [*np.flatnonzero(np.diff(flat, prepend=0)), flat.size]
    return {"size": SIZE, "counts": np.diff(ends, prepend=0).tolist()}


def make_truth(rng: np.random.Generator, first_id: int = 1) -> dict[str, Any]:
    """Of 12 images with up to 6 objects; some are crowds, some have no visible keypoint."""
    images = [
        {"id": i, "file_name": "", "height": SIZE[0], "width": SIZE[1]} for i in rng.permutation(999)[:12].tolist()
    ]
    annotations: list[dict[str, Any]] = []
    for image in images:
        for _ in range(rng.integers(7)):
            here, crowd, seen = box(rng), rng.random() < 0.2, rng.integers(0, 3, KEYPOINTS) * (rng.random() < 0.8)
            places = rng.uniform(0, SIZE[::-1], (KEYPOINTS, 2)) * (seen[:, None] > 0)
            kind = "counts" if crowd else ("polygons", "RLE")[rng.integers(2)]
            entry = {"id": first_id + len(annotations), "image_id": image["id"], "iscrowd": int(crowd)}
            entry |= {"category_id": 10 + int(rng.integers(3)), "bbox": here.tolist()}
            entry |= {"area": float(rng.uniform(0, 12000)), "segmentation": segmentation(here, kind)}
            entry |= {"keypoints": np.c_[places, seen].flatten().tolist(), "num_keypoints": int((seen > 0).sum())}
            annotations.append(entry)
    categories = [{"id": 10 + i, "name": name} for i, name in enumerate(CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def detect(truth: dict[str, Any], rng: np.random.Generator, most: int = 130) -> Found:
    """Up to 130 in an image, of which 100 count; two thirds near an object, and many with the same score."""
    found: Found = []
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        near = [objects[rng.integers(len(objects))] if objects and rng.random() < 0.7 else None for _ in range(most)]
        near = near[: rng.integers(most + 1)]
        boxes = np.array([a["bbox"] * rng.normal(1, 0.1, 4) if a else box(rng) for a in near]).reshape(-1, 4)
        points = [np.array(a["keypoints"]) if a else rng.uniform(0, 80, 3 * KEYPOINTS) for a in near]
        masks = np.array([pixels(b) for b in boxes], dtype=bool).reshape(-1, *SIZE)
        instances = Instances(SIZE, scores=torch.tensor(rng.random(len(near)).round(1)))
        instances.pred_classes = torch.tensor([a["category_id"] - 10 if a else rng.integers(4) for a in near]).long()
        instances.pred_boxes = Boxes(torch.tensor(np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]))
        instances.pred_masks = torch.tensor(masks)
        instances.pred_keypoints = torch.tensor(np.array(points)).float().reshape(-1, KEYPOINTS, 3)
        instances.pred_keypoints += torch.tensor(rng.normal(0, 3, instances.pred_keypoints.shape)).float()
        found.append(({"image_id": image["id"]}, {"instances": instances}))
    return found


@pytest.fixture
def evaluate(tmp_path: Path) -> Iterator[Callable[..., dict[str, dict[str, float]]]]:
    """The results of one of the values of TEST.COCO_EVAL."""

    def run(api: str, truth: dict[str, Any], found: Found, **metadata: Any) -> dict[str, dict[str, float]]:
        file, cfg = tmp_path / "truth.json", get_default_config()
        file.write_text(json.dumps(truth))
        ids = {category["id"]: i for i, category in enumerate(truth["categories"])}
        if NAME not in MetadataCatalog.list():
            metadata |= {"thing_classes": list(CLASSES), "thing_dataset_id_to_contiguous_id": ids}
            MetadataCatalog.get(NAME).set(json_file=str(file), evaluator_type="coco", **metadata)
        cfg.OUTPUT_DIR, cfg.TEST.COCO_EVAL, cfg.TEST.KEYPOINT_OKS_SIGMAS = str(tmp_path), api, [0.4] * KEYPOINTS
        evaluator = build_evaluator(cfg, NAME)
        evaluator.reset()
        for record, output in copy.deepcopy(found):  # Detectron2 moves keypoints in place
            evaluator.process([record], [output])
        return evaluator.evaluate()

    yield run
    MetadataCatalog.pop(NAME, None)


@installed
@pytest.mark.parametrize("seed", range(6))
def test_figures_are_those_of_pycocotools(seed: int, evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Boxes, masks and keypoints; of all classes, of each, and of those that context decides."""
    rng = np.random.default_rng(seed)
    truth = make_truth(rng, first_id=seed % 2)
    found = detect(truth, rng)
    expected = evaluate("pycocotools", truth, found, context_classes=["b"])
    with monkeypatch.context() as patch:  # it is not pycocotools that computes them
        patch.setattr("pycocotools.cocoeval.COCOeval.evaluate", None)
        results = evaluate("faster-coco-eval", truth, found)
    assert set(results) == {"bbox", "segm", "keypoints"}
    for task, figures in expected.items():
        assert results[task] == pytest.approx(figures, abs=1e-9, rel=0, nan_ok=True), task
        assert 5 < figures["AP"] < 95 and "AP-b" in figures and ("AP-context" in figures) == (task != "keypoints")


@installed
def test_every_precision_and_recall_is_that_of_pycocotools(evaluate, monkeypatch: pytest.MonkeyPatch) -> None:
    """By IoU, recall, class, size and number of detections, of which the figures are means."""
    rng, kept = np.random.default_rng(9), []
    truth = make_truth(rng)
    found = detect(truth, rng)
    original = coco_evaluation._evaluate_predictions_on_coco
    monkeypatch.setattr(
        coco_evaluation, original.__name__, lambda *args, **kw: kept.append(original(*args, **kw)) or kept[-1]
    )
    for api in ("pycocotools", "faster-coco-eval"):
        evaluate(api, truth, found)
    for ours, theirs in zip(kept[3:], kept[:3], strict=True):
        assert type(ours) is not type(theirs)
        for key in ("precision", "recall", "scores"):
            np.testing.assert_allclose(ours.eval[key], theirs.eval[key], rtol=0, atol=1e-9, err_msg=key)


@installed
def test_no_predictions(evaluate) -> None:
    rng = np.random.default_rng(0)
    truth = make_truth(rng)
    found = detect(truth, rng, most=0)
    results, expected = (evaluate(api, truth, found) for api in ("faster-coco-eval", "pycocotools"))
    assert results.keys() == expected.keys() == {"bbox"}
    assert results["bbox"] == pytest.approx(expected["bbox"], nan_ok=True) and np.isnan(results["bbox"]["AP"])
    assert evaluate("faster-coco-eval", truth, []) == {}


@installed
@pytest.mark.parametrize("change", [str, lambda i: 2**60 + i])
def test_ids_that_it_cannot_take_are_left_to_pycocotools(change, evaluate, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(1)
    truth = make_truth(rng)
    found = detect(truth, rng)
    for image in truth["images"]:
        image["id"] = change(image["id"])
    for entry in (*truth["annotations"], *(record for record, _ in found)):
        entry["image_id"] = change(entry["image_id"])
    expected = evaluate("pycocotools", truth, found)
    with caplog.at_level(logging.WARNING):
        results = evaluate("faster-coco-eval", truth, found)
    for task, figures in expected.items():
        assert results[task] == pytest.approx(figures, abs=1e-9, nan_ok=True)
    assert "pycocotools evaluates" in caplog.text
    assert coco_evaluation.COCOeval_opt is not faster_coco_eval  # Detectron2's module is as it was


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_api("pycocotools")
    with pytest.raises(ConfigError, match="TEST.COCO_EVAL is 'faster-coco-eval', which needs the package faster-coco"):
        check_api("faster-coco-eval")
