"""The notebooks open in Jupyter, and their code runs from top to bottom: here on a small model, for two iterations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from PIL import Image

from fpt_d2 import model_zoo
from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.visualization import plot_learning_curves
from tests.data.label_formats import write_voc

from .pages import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
SMALL = "MODEL.DEVICE cpu MODEL.WEIGHTS  INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.IMS_PER_BATCH 2"
METRICS = {"iteration": 1, "total_loss": 2.5, "lr": 0.1, "bbox/AP": 1.0, "bbox/AP50": 2.0, "segm/AP": 1.0}


def program(name: str, parameters: dict[str, Any]) -> str:
    """The code of a notebook, with other values for what its cell of parameters sets."""
    code = []
    for cell in json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            code.append("".join(cell["source"]))
            if "parameters" in cell["metadata"].get("tags", ()):
                code += [f"{key}; {key} = {value!r}" for key, value in parameters.items()]  # it is one of the cell's
    return "\n".join(code)


def run(name: str, folder: Path, **parameters: Any) -> str:
    """What it prints when run in ``folder``."""
    env = {key: value for key, value in os.environ.items() if key != "DETECTRON2_DATASETS"}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", program(name, parameters)]
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def quickstart(tmp_path: Path) -> Path:
    """What `make quickstart` leaves, of a model that has learned nothing, and the notebooks' folder."""
    out, folder = tmp_path / "output" / "quickstart", tmp_path / "docs" / "notebooks"
    out.mkdir(parents=True)
    folder.mkdir(parents=True)
    write_shapes(tmp_path / "datasets" / "fpt_shapes", num_train=1, num_val=2, progress=False)
    torch.manual_seed(0)
    model = build_model(model_zoo.get_config("quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml"))
    DetectionCheckpointer(model, str(out)).save("model_final")
    (out / "metrics.json").write_text(json.dumps(METRICS))
    plot_learning_curves(out / "metrics.json", out / "learning_curves.png")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_in_jupyter_and_is_small(name: str) -> None:
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 12 and (FOLDER / name).stat().st_size < 20_000
    assert not any(cell.outputs or cell.execution_count for cell in notebook.cells if cell.cell_type == "code")


def test_quick_look(quickstart: Path) -> None:
    printed = run("quick_look.ipynb", quickstart, THRESHOLD=0.0)
    assert "GT from p3: " in printed and "objects with the branches" in printed and "AP50" in printed
    assert Image.open(quickstart / "attention.png").width > 600


@pytest.mark.parametrize("labels", ["", "voc"])
def test_own_data(labels: str, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    own = {}
    if labels:
        write_shapes(tmp_path / "shapes", num_train=6, num_val=2, progress=False)
        write_voc(tmp_path / "shapes", tmp_path / "photos")
        own = {"PHOTOS": "photos", "LABELS": labels}
    printed = run("own_data.ipynb", tmp_path, ITERATIONS=2, OPTIONS=SMALL.split(" "), **own)
    assert "6 classes: " in printed and "bbox/AP50" in printed
    assert (tmp_path / "own_data" / "model" / "model_final.pth").exists()
