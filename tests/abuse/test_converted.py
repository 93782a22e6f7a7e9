"""What tools/prepare.py writes out of other formats trains as it is, by the words that the command prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from fpt_d2.commands import prepare
from tests.data.label_formats import write_labelme, write_yolo
from tests.engine.conftest import CONFIG

# Boxes, and polygons with masks; VOC's boxes are the same as YOLO's.
WRITERS = {
    "yolo": partial(write_yolo, classes=["circle", "square", "triangle", "star", "ring", "cross"]),
    "labelme": partial(write_labelme, embedded=True),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_the_printed_words_train(
    kind: str,
    shapes: Path,
    tmp_path: Path,
    train_net: Callable[[list[str]], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fpt_d2.data.datasets.sem_seg.DATASETS_ROOT", tmp_path / "data sets")
    WRITERS[kind](shapes, tmp_path / "my labels")
    name = f"{kind}_of_shapes"
    assert prepare.main([kind, str(tmp_path / "my labels"), "--name", name]) == 0
    words = shlex.split(capsys.readouterr().out.partition("add to the command: ")[2].strip())
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    assert (
        train_net(["--config-file", str(config), *words, "OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "2"])
        == 0
    )
    assert (tmp_path / "out" / "model_final.pth").exists()
    assert "copypaste: AP,AP50" in capsys.readouterr().out
