"""The command line of the attention explorer: pictures, and one sentence for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fpt_d2 import model_zoo
from fpt_d2.commands.explore import main
from fpt_d2.config_file import read_config
from tests.loggers import forget_loggers

CONFIG = model_zoo.get_config_file("quick_schedules/faster_rcnn_R_18_FPT_quickstart.yaml")
KEYS = ["MODEL.FPT.ZERO_INIT_FUSE", "False", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128"]


@pytest.fixture(autouse=True)
def fresh_loggers() -> Iterator[None]:
    """Without it a handler would write to the standard output of the test before."""
    yield
    forget_loggers()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An image of 120 x 75 pixels, and weights."""
    folder = tmp_path_factory.mktemp("explore")
    image = np.random.default_rng(0).integers(0, 255, (75, 120, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "image.png"), image)
    torch.manual_seed(0)
    torch.save({"model": build_model(read_config(CONFIG, KEYS)).state_dict()}, folder / "model.pth")
    return str(folder / "image.png"), str(folder / "model.pth")


def run(output: Path, files: tuple[str, str], *words: str) -> int:
    """The exit status."""
    argv = ["--config-file", CONFIG, "--input", files[0], "--output", str(output), *words]
    return main([*argv, "--opts", "MODEL.WEIGHTS", files[1], *KEYS])


def test_a_pixel_and_an_object_are_drawn(tmp_path: Path, files: tuple[str, str]) -> None:
    assert run(tmp_path / "point.png", files, "--point", "100,60", "--level", "p3") == 0
    assert run(tmp_path / "object.png", files, "--object", "1", "--confidence-threshold", "0.01") == 0
    assert (tmp_path / "point.png").exists() and (tmp_path / "object.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--point", "120,20"], "--point 120,20 is outside the image, which is 120 x 75 pixels"),
        (["--point", "12"], "'12' is not X,Y in pixels, such as 120,80"),
        (
            ["--object", "1", "--confidence-threshold", "1.0"],
            "There is no object 1: the model detected 0 in this image",
        ),
        (["--object", "0"], "There is no object 0"),
        (["--point", "1,1", "--object", "1"], "not allowed with argument"),
        (["--point", "1,1", "--level", "p1"], "There is no level 'p1'"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "out.png", files, *words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out.png").exists()
