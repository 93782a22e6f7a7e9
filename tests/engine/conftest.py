"""A data set of a few small images and a small model on it, for whole trainings within seconds."""

import runpy
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from fpt_d2.cli import training_parser
from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.data.synthetic.write_shapes import write_shapes
from tests.loggers import forget_loggers

ROOT = Path(__file__).resolve().parents[2]
RES = ["res2", "res3", "res4", "res5"]
CONFIG = {
    "MODEL": {
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "DEVICE": "cpu",
        "WEIGHTS": "",
        "MASK_ON": True,
        "PIXEL_STD": [57.375, 57.12, 58.395],
        "BACKBONE": {"NAME": "build_resnet_fpt_backbone", "FREEZE_AT": 0},
        "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "BN", "OUT_FEATURES": RES},
        "FPN": {"IN_FEATURES": RES, "OUT_CHANNELS": 32},
        "FPT": {"BRANCH_CHANNELS": 16, "DROP_BLOCK_PROB": 0.1},
        "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "PRE_NMS_TOPK_TRAIN": 100,
            "PRE_NMS_TOPK_TEST": 50,
            "POST_NMS_TOPK_TRAIN": 50,
            "POST_NMS_TOPK_TEST": 20,
        },
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "BATCH_SIZE_PER_IMAGE": 16,
            "NUM_CLASSES": len(CATEGORIES),
            "SCORE_THRESH_TEST": 0.0,
        },
        "RETINANET": {"NUM_CLASSES": len(CATEGORIES)},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 64, "POOLER_RESOLUTION": 7},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16, "POOLER_RESOLUTION": 7},
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [96],
        "MIN_SIZE_TEST": 96,
        "MAX_SIZE_TRAIN": 128,
        "MAX_SIZE_TEST": 128,
        "MASK_FORMAT": "bitmask",
    },
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {"IMS_PER_BATCH": 2, "BASE_LR": 0.002, "WARMUP_ITERS": 0, "STEPS": [100], "MAX_ITER": 4},
    "SEED": 1,
    "VERSION": 2,
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Without it every training would write to the log files of all before it, and what is logged would not be seen."""
    forget_loggers()
    yield
    forget_loggers()


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=8, num_val=4, image_size=(64, 96), progress=False)
    return root


@pytest.fixture(scope="session")
def config_file(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config of the small model on the small data set, ``tiny_train`` and ``tiny_val``."""
    entries = [
        [f"tiny_{split}", str(shapes / "annotations" / f"instances_{split}.json"), str(shapes / split)]
        for split in ("train", "val")
    ]
    datasets = {"TRAIN": ["tiny_train"], "TEST": ["tiny_val"], "REGISTER_COCO": entries}
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump({"DATASETS": datasets, **CONFIG}))
    return str(path)


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """The output folder of the test's trainings."""
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.fixture
def command_line(config_file: str, out: Path) -> Callable[..., list[str]]:
    """From flags and KEY VALUE pairs to train_net.py's words, with config file and output folder put in."""

    def make(*words: Any) -> list[str]:
        flags = [str(word) for word in words if str(word).startswith("--")]
        pairs = [str(word) for word in words if not str(word).startswith("--")]
        return ["--config-file", config_file, *flags, "OUTPUT_DIR", str(out), *pairs]

    return make


@pytest.fixture
def parse(command_line: Callable[..., list[str]]) -> Callable[..., Namespace]:
    return lambda *words: training_parser().parse_args(command_line(*words))


@pytest.fixture
def train_net(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], int]:
    """Run train_net.py with these words; its exit code."""

    def run(words: list[str]) -> int:
        monkeypatch.setattr(sys, "argv", ["train_net.py", *words])
        try:
            runpy.run_path(str(ROOT / "train_net.py"), run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return run
