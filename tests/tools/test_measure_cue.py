"""The command that measures whether attention is on the cue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from measure_cue import main

from fpt_d2 import model_zoo
from fpt_d2.config_file import read_config
from fpt_d2.data.datasets.bundled import register_context_detection
from fpt_d2.data.synthetic.write_context_detection import write_context_detection
from tests.loggers import forget_loggers

CONFIG = model_zoo.get_config_file("quick_schedules/mask_rcnn_R_18_FPT_context.yaml")
KEYS = ["MODEL.FPT.ZERO_INIT_FUSE", "False", "MODEL.MASK_ON", "False"]
NAME = "fpt_context_presence_val"


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    yield
    forget_loggers()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An untrained model; three scenes stand in the place of the bundled ones."""
    folder = tmp_path_factory.mktemp("cue")
    write_context_detection(folder / "scenes", "presence", num_train=1, num_val=3, progress=False)
    torch.manual_seed(0)
    torch.save({"model": build_model(read_config(CONFIG, KEYS)).state_dict()}, folder / "model.pth")
    load, metadata = DatasetCatalog.pop(NAME), MetadataCatalog.pop(NAME)
    register_context_detection(str(folder / "scenes"), "presence", "val")
    yield str(folder / "model.pth")
    DatasetCatalog.remove(NAME)
    MetadataCatalog.pop(NAME)
    DatasetCatalog.register(NAME, load)
    MetadataCatalog[NAME] = metadata


def run(weights: str, data: str, *words: str) -> int:
    opts = ["MODEL.WEIGHTS", weights, "DATASETS.TEST", f"('{data}',)", *KEYS]
    return main(["--config-file", CONFIG, *words, "--opts", *opts])


def test_figures_are_said(weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(weights, NAME, "--num-images", "2") == 0
    said = capsys.readouterr().out
    assert "most attended place is on a cue: " in said and "% of 2" in said
    assert all(f"{branch}: " in said for branch in ("ST from p2", "GT from p3", "GT from p4", "GT from p5"))


def test_data_without_cues_are_refused(weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(weights, "not_there")
    assert ended.value.code == 2 and "its first data set must be a registered one" in capsys.readouterr().err
    MetadataCatalog.get(NAME).__dict__.pop("cue_classes")
    with pytest.raises(SystemExit) as ended:
        run(weights, NAME)
    assert ended.value.code == 2 and "does not say what its cues are" in capsys.readouterr().err
