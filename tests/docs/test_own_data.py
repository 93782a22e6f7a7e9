"""README.md's commands for data of one's own, on sixteen generated images with labels in VOC's format."""

from __future__ import annotations

import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.data.label_formats import write_voc
from tests.in_process import running_commands

from .commands import blocks_of
from .pages import ROOT

# No weights, and a shape that two CPU cores train; the shapes have six classes, where the page supposes three.
SMALL = """
MODEL.WEIGHTS NONE MODEL.DEVICE cpu MODEL.RESNETS.DEPTH 18
MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.ROI_HEADS.NUM_CLASSES 6
MODEL.FPT.BRANCH_CHANNELS 16 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64 SOLVER.MAX_ITER 2 SOLVER.STEPS ()
SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0
""".split()


def run(script: str, *args: str) -> None:
    sys.argv = [script, *args]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code


def test_from_photos_with_voc_labels_to_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getenv("DETECTRON2_DATASETS"):
        pytest.skip("data are prepared under DETECTRON2_DATASETS, which is not to be written to")
    (block,) = (block for block in blocks_of("README.md") if "tools/prepare.py" in block.commands[0])
    prepare, train = (words[1:] for words in block.commands)
    for name in ("configs", "tools", "train_net.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    with running_commands("cells_train", "cells_val"):
        run("tools/generate_shapes.py", "--output", "shapes", "--num-train", "12", "--num-val", "4")
        write_voc(Path("shapes"), Path("my_photos"))
        run(*prepare)
        run(*train, *("" if word == "NONE" else word for word in SMALL))
    assert Path("output/cells/model_final.pth").exists()
    assert re.search(r'"bbox/AP"', Path("output/cells/metrics.json").read_text())
