"""The Python of docs/training.md: a model of a training, from Python and as a folder of the Hub."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fpt_d2
from tests.demo.conftest import config_file

from .pages import blocks

__all__ = ["config_file"]


def test_from_python(config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub", reason="models of the Hub need huggingface_hub")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(Path(config_file).parent, "output")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save("photo.jpg")
    push = lambda self, repo_id, **card: shutil.copytree("cells", repo_id)  # noqa: E731
    monkeypatch.setattr(fpt_d2.Predictor, "push_to_hub", push)
    predict, share = blocks("training.md")["From Python"]
    names: dict = {}
    exec(predict.replace("threshold=0.5", "threshold=0.0"), names)
    assert len(names["instances"]) and "name" in names
    before = names["predictor"]
    exec(share, names)
    assert names["predictor"] is not before and names["predictor"].class_names == before.class_names
