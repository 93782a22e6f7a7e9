"""The first lines that a newcomer copies: an FPN's weights, as the model zoo has them, in an FPT; here random ones."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

import fpt_d2

from .commands import blocks_of, read_page
from .pages import ROOT, code_lines

SMALL = {"INPUT.MIN_SIZE_TEST": 64, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0, "MODEL.DEVICE": "cpu"}
ADDRESS = r"detectron2://[\w/.-]+"


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    cv2.imwrite("photo.jpg", image)
    return cv2.imread("photo.jpg")


def fpn(name: str) -> DefaultPredictor:
    """Detectron2's own model, with weights that are saved as fpn.pth."""
    cfg = model_zoo.get_config(name)
    cfg.merge_from_list([word for pair in SMALL.items() for word in pair])
    torch.manual_seed(0)
    model = build_model(cfg)
    DetectionCheckpointer(model, ".").save("fpn")
    cfg.MODEL.WEIGHTS = "fpn.pth"
    return DefaultPredictor(cfg)


@pytest.mark.parametrize("page", ["README.md", "getting_started.md"])
def test_python(page: str, photo: np.ndarray) -> None:
    expected = fpn("COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml")(photo)["instances"]
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", read_page(page), re.DOTALL) if "Predictor" in block
    )
    assert page != "README.md" or code_lines(code) <= 6
    code, number = re.subn(ADDRESS, "fpn.pth", code)
    assert number == 1
    small = [word for pair in SMALL.items() for word in pair]
    code = code.replace("instances = ", f"cfg.merge_from_list({small!r})\ninstances = ") if "cfg" in code else code
    names = {"small": partial(fpt_d2.Predictor, opts=small, threshold=0.0)}
    exec(code.replace("fpt_d2.Predictor(", "small("), names)
    found = names["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, rtol=0, atol=1e-2)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("page", ["README.md", "getting_started.md"])
def test_demo(page: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fpn("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
    words = next(words for block in blocks_of(page) for words in block.commands if "demo/demo.py" in words)
    words = [re.sub(ADDRESS, "fpn.pth", word) for word in words[1:]]
    assert "fpn.pth" in words
    Path("configs").symlink_to(ROOT / "configs")
    monkeypatch.syspath_prepend(str(ROOT / "demo"))
    monkeypatch.setattr(sys, "argv", [*words, "INPUT.MIN_SIZE_TEST", "64"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    assert not end.value.code
    assert Path("detected.jpg").stat().st_size > 1000
