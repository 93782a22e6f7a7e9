"""The quick schedule of each family that trains and evaluates on other data than boxes and masks, cut short."""

import json
from pathlib import Path
from typing import Any

import pytest

from fpt_d2.model_zoo import get_config_file
from tests.shapes import bundled_shapes

SHORT = "SOLVER.MAX_ITER 1 SOLVER.IMS_PER_BATCH 2 INPUT.MIN_SIZE_TRAIN (96,) INPUT.MIN_SIZE_TEST 96".split()
SHORT += ["TEST.EXPECTED_RESULTS", "[]"]  # they are of the whole training


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("keypoint_rcnn_R_18_FPT", ["bbox/AP", "keypoints/AP"]),
        ("panoptic_fpt_R_18", ["bbox/AP", "segm/AP", "sem_seg/mIoU", "panoptic_seg/PQ"]),
        ("rpn_R_18_FPT", ["box_proposals/AR@100"]),
    ],
)
def test_training_and_evaluation(name: str, metrics: list[str], shapes: Path, out: Path, train_net: Any) -> None:
    words = [
        "--config-file",
        get_config_file(f"quick_schedules/{name}_quickstart.yaml"),
        "OUTPUT_DIR",
        str(out),
        *SHORT,
    ]
    if name.startswith("keypoint"):
        words += ["DATASETS.TEST", "('fpt_shapes_keypoints_train',)"]  # there is no star in the few of the other
    # No score is high after one iteration.
    words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "TEST.LOSS", "True", "TEST.VIS_IMAGES", "1"]
    with bundled_shapes(shapes):
        assert train_net(words) == 0
    values = {key: x for line in (out / "metrics.json").read_text().splitlines() for key, x in json.loads(line).items()}
    assert set(metrics) <= values.keys()
    assert all(values[metric] >= 0 for metric in metrics if metric != "keypoints/AP")


def test_a_mistake_is_one_sentence(shapes: Path, out: Path, train_net: Any, capsys: pytest.CaptureFixture) -> None:
    words = ["--config-file", get_config_file("quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml")]
    words += ["OUTPUT_DIR", str(out), "TEST.AUG.ENABLED", "True"]
    with bundled_shapes(shapes):
        assert train_net(words) == 2
    assert "TEST.AUG.ENABLED needs a model without keypoints" in capsys.readouterr().err
