"""Panoptic quality against figures worked out by hand, and on the synthetic shapes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOPanopticEvaluator
from PIL import Image

from fpt_d2.data.synthetic.classes import CATEGORIES, PATTERNS
from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.evaluation.panoptic import PanopticQuality, count_matches

NAME = "panoptic_evaluated"
THINGS, STUFF = len(CATEGORIES), len(PATTERNS)


def strip(*runs: tuple[int, int]) -> np.ndarray:
    """An image one pixel high: ids and how often each stands."""
    return np.repeat(*np.array(runs).T)[None]


@pytest.mark.parametrize(
    ("truth", "segments", "predicted", "found", "counts"),
    [
        # 8 of 10 pixels found, and 1 more: IoU 8 / 11.
        (strip((1, 10), (2, 10)), {1: (7, False), 2: (9, False)}, strip((5, 8), (0, 2), (5, 1), (6, 9)),
         {5: 7, 6: 9}, {7: (8 / 11, 1, 0, 0), 9: (0.9, 1, 0, 0)}),
        # The right place under the wrong category: one wrong, one missed.
        (strip((1, 10)), {1: (7, False)}, strip((5, 10)), {5: 8}, {7: (0, 0, 0, 1), 8: (0, 0, 1, 0)}),
        # Half is not more than half.
        (strip((1, 5), (2, 5)), {1: (7, False), 2: (8, False)}, strip((5, 10)), {5: 7},
         {7: (0, 0, 1, 1), 8: (0, 0, 0, 1)}),
        # Pixels without a segment are not in the union, and a prediction mostly on them counts for nothing.
        (strip((1, 4), (0, 6)), {1: (7, False)}, strip((5, 6), (6, 4)), {5: 7, 6: 7}, {7: (1.0, 1, 0, 0)}),
        # A crowd need not be found, and what is found in one of the same category counts for nothing.
        (strip((1, 6), (2, 4)), {1: (7, True), 2: (8, False)}, strip((5, 3), (6, 3), (4, 4)), {5: 7, 6: 9, 4: 8},
         {8: (1.0, 1, 0, 0), 9: (0, 0, 1, 0)}),
    ],
    ids=["overlap", "category", "half", "void", "crowd"],
)  # fmt: skip
def test_matches(truth, segments, predicted, found, counts) -> None:
    result = count_matches(truth, segments, predicted, found)
    assert result.keys() == counts.keys()
    for category, values in counts.items():
        np.testing.assert_allclose(result[category], values)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=1, num_val=12, image_size=(64, 96), progress=False)
    MetadataCatalog.get(NAME).set(
        panoptic_json=str(root / "annotations" / "panoptic_val.json"),
        panoptic_root=str(root / "panoptic_val"),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(THINGS)},
        stuff_dataset_id_to_contiguous_id={0: 0} | {THINGS + 1 + i: i + 1 for i in range(STUFF)},
    )
    yield root
    MetadataCatalog.remove(NAME)
    assert NAME not in DatasetCatalog


def predictions(root: Path, *, shift: int = 0):
    """The truth, moved sideways, as a panoptic model puts it out."""
    content = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    for annotation in content["annotations"]:
        ids = np.asarray(Image.open(root / "panoptic_val" / annotation["file_name"]))[..., 0].astype(np.int32)
        infos = []
        for segment in annotation["segments_info"]:
            if segment["iscrowd"]:  # which no model predicts: its pixels are of no segment
                ids[ids == segment["id"]] = 0
                continue
            thing = segment["category_id"] <= THINGS
            number = segment["category_id"] - 1 - (0 if thing else THINGS - 1)
            infos.append({"id": segment["id"], "isthing": thing, "category_id": number})
        output = {"panoptic_seg": (torch.from_numpy(np.roll(ids, shift, axis=1)), infos)}
        yield {"image_id": annotation["image_id"], "file_name": annotation["file_name"]}, output


def evaluate(evaluator, root: Path, **kwargs: int) -> dict[str, float]:
    evaluator.reset()
    for record, output in predictions(root, **kwargs):
        evaluator.process([record], [output])
    return evaluator.evaluate()["panoptic_seg"]


def test_the_truth_has_full_quality_and_less_where_it_is_moved(shapes: Path) -> None:
    evaluator = PanopticQuality(NAME)
    full = evaluate(evaluator, shapes)
    assert full == {f"{key}{kind}": pytest.approx(100) for key in ("PQ", "SQ", "RQ") for kind in ("", "_th", "_st")}
    moved = evaluate(evaluator, shapes, shift=3)
    assert moved["PQ_th"] < moved["PQ_st"] < 100 and 0 < moved["PQ"] < full["PQ"]
    further = evaluate(evaluator, shapes, shift=12)
    assert further["PQ"] < moved["PQ"] and further["RQ"] < moved["RQ"]


@pytest.mark.skipif(importlib.util.find_spec("panopticapi") is None, reason="needs panopticapi")
def test_figures_are_those_of_panopticapi(shapes: Path) -> None:
    theirs = evaluate(COCOPanopticEvaluator(NAME), shapes, shift=3)
    assert evaluate(PanopticQuality(NAME), shapes, shift=3) == {k: pytest.approx(v) for k, v in theirs.items()}
