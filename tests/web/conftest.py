"""A viewer of an untrained model, and images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fpt_d2 import model_zoo
from fpt_d2.commands.web.viewer import Viewer, viewer_config
from fpt_d2.config_file import read_config
from tests.loggers import forget_loggers

CONFIG = model_zoo.get_config_file("quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml")
KEYS = ["MODEL.FPT.ZERO_INIT_FUSE", "False", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128"]


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    yield
    forget_loggers()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("web") / "model.pth"
    torch.save({"model": build_model(read_config(CONFIG, KEYS)).state_dict()}, file)
    return str(file)


@pytest.fixture(scope="session")
def viewer(weights: str) -> Viewer:
    return Viewer(viewer_config(CONFIG, ["MODEL.WEIGHTS", weights, *KEYS]))


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 120 x 75 pixels."""
    file = tmp_path_factory.mktemp("photo") / "photo.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(0, 255, (75, 120, 3), dtype=np.uint8))
    return file
