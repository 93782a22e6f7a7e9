"""The figures of semantic segmentation are those of the confusion matrix, and its files hold what was predicted."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpt_d2.data import register_from_config
from fpt_d2.engine import get_default_config
from fpt_d2.evaluation import build_evaluator
from tests.semantic import CLASSES, IGNORE, write_semantic

NAME = "evaluated_masks"


@pytest.fixture
def cfg(tmp_path: Path):
    cfg = get_default_config()
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    # One class more than there is in any mask.
    images, masks, _ = write_semantic(tmp_path, number=5)
    cfg.DATASETS.REGISTER_SEM_SEG = ((NAME, images, masks, (*CLASSES, "nowhere")),)
    cfg.DATASETS.TEST = (NAME,)
    register_from_config(cfg)
    yield cfg
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(NAME)


def near_truth(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """The true labels with every fourth pixel's drawn anew, also where there is none."""
    noise = rng.integers(4, size=truth.shape)
    return np.where((rng.random(truth.shape) < 0.25) | (truth == IGNORE), noise, truth)


def evaluate(cfg, predicted: dict[str, np.ndarray]) -> dict[str, float]:
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        logits = torch.nn.functional.one_hot(torch.from_numpy(predicted[record["file_name"]]), 4).permute(2, 0, 1)
        evaluator.process([record], [{"sem_seg": logits.float()}])
    return evaluator.evaluate()["sem_seg"]


@pytest.fixture
def predicted(cfg) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    truths = {r["file_name"]: np.array(Image.open(r["sem_seg_file_name"])) for r in DatasetCatalog.get(NAME)}
    return {file: near_truth(rng, truth) for file, truth in truths.items()}


def test_figures_are_those_of_the_confusion_matrix(cfg, predicted) -> None:
    matrix = np.zeros((4, 4))  # truth, prediction
    for record in DatasetCatalog.get(NAME):
        truth = np.array(Image.open(record["sem_seg_file_name"]))
        for i in range(4):
            for j in range(4):
                matrix[i, j] += np.sum((truth == i) & (predicted[record["file_name"]] == j))
    results = evaluate(cfg, predicted)
    right, true, found = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    iou = right[:3] / (true + found - right)[:3]
    assert 0 < found[3] and true[3] == 0  # predicted though it is nowhere: no class to average over
    assert results["mIoU"] == pytest.approx(100 * iou.mean())
    assert results["fwIoU"] == pytest.approx(100 * np.sum(iou * true[:3]) / true.sum())
    assert results["pACC"] == pytest.approx(100 * right.sum() / true.sum())
    assert results["mACC"] == pytest.approx(100 * np.mean(right[:3] / true[:3]))
    for name, of_class, accuracy in zip(CLASSES, iou, right / np.maximum(true, 1)):
        assert results[f"IoU-{name}"] == pytest.approx(100 * of_class)
        assert results[f"ACC-{name}"] == pytest.approx(100 * accuracy)
    assert 50 < results["mIoU"] < 90 and np.isnan(results["IoU-nowhere"])


def test_the_saved_predictions_are_those_that_were_measured(cfg, predicted, tmp_path: Path) -> None:
    evaluate(cfg, predicted)
    saved = json.loads((tmp_path / "out" / "inference" / "sem_seg_predictions.json").read_text())
    for file, labels in predicted.items():
        drawn = np.full(labels.shape, -1)
        for segment in saved:
            if segment["file_name"] == file:
                drawn[mask_util.decode(segment["segmentation"]).astype(bool)] = segment["category_id"]
        assert (drawn == labels).all()


@pytest.mark.parametrize("label_ids", [None, {7: 0, 8: 1, 33: 2, 26: 3}, {7: 0, 8: 1, 33: 2, 300: 3}])
def test_files_hold_the_label_ids(cfg, predicted, label_ids, tmp_path: Path) -> None:
    if label_ids:
        MetadataCatalog.get(NAME).stuff_dataset_id_to_contiguous_id = label_ids
    cfg.TEST.SEM_SEG_RESULTS = True
    assert evaluate(cfg, predicted)["mIoU"] > 50
    ids = np.array(list(label_ids) if label_ids else range(4))
    colors = np.array(MetadataCatalog.get(NAME).stuff_colors)
    for file, labels in predicted.items():
        folder = tmp_path / "out" / "inference"
        written = Image.open(folder / "sem_seg_labels" / f"{Path(file).stem}.png")
        assert written.mode == ("I;16" if ids.max() > 255 else "L")
        assert (np.array(written) == ids[labels]).all()
        overlay = np.array(Image.open(folder / "sem_seg_overlays" / f"{Path(file).stem}.png").convert("RGB"))
        image = np.array(Image.open(file))
        assert overlay.shape == image.shape
        assert np.abs(overlay - (image + colors[labels]) / 2).mean() < np.abs(overlay - image.astype(float)).mean()


def test_cityscapes_files_are_as_its_server_takes_them(cfg, predicted, tmp_path: Path) -> None:
    cityscapes = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    metadata = MetadataCatalog.get(NAME)
    for catalog_name in ("stuff_classes", "stuff_colors", "stuff_dataset_id_to_contiguous_id", "evaluator_type"):
        metadata.__dict__.pop(catalog_name, None)
        setattr(metadata, catalog_name, cityscapes.get(catalog_name))
    cfg.TEST.SEM_SEG_RESULTS = True
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in DatasetCatalog.get(NAME):
        labels = torch.from_numpy(predicted[record["file_name"]]) + 11  # person, rider, car, truck
        evaluator.process([record], [{"sem_seg": torch.nn.functional.one_hot(labels, 19).permute(2, 0, 1).float()}])
    for file, labels in predicted.items():
        written = np.array(Image.open(tmp_path / "out" / "inference" / "sem_seg_labels" / f"{Path(file).stem}.png"))
        assert (written == np.array([24, 25, 26, 27])[labels]).all()
