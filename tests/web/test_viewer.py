"""What the page shows, without a browser and without Gradio."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpt_d2 import model_zoo
from fpt_d2.commands.web import viewer as module
from fpt_d2.commands.web.viewer import MIN_SCORE, Place, Viewer, scale_of, viewer_config
from fpt_d2.commands.web_demo import main
from fpt_d2.config_file import read_config
from fpt_d2.errors import DatasetError, UserError

from .conftest import CONFIG, KEYS


def bomb(path: Path, side: int) -> Path:
    """A PNG that announces so many pixels and has none."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return path


def test_an_image_is_read_as_training_does_and_no_larger_than_it_is_shown(viewer: Viewer, tmp_path: Path) -> None:
    large = np.full((1500, 3000, 3), (255, 128, 0), np.uint8)  # BGR
    cv2.imwrite(str(tmp_path / "large.png"), large)
    image = viewer.read(tmp_path / "large.png")
    assert image.shape == (866, 1732, 3) and image[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("note.txt", "note.txt cannot be read: it is not an image"),
        ("cut.png", "cut.png cannot be read"),
        ("bomb.png", r"bomb.png has 9000 x 9000 pixels, more than the 64 million that this page takes: scale it down"),
        ("worse.png", "worse.png cannot be read: it has more than 134 million pixels"),
        ("heavy.png", "heavy.png has 40 MiB, more than the 32 that this page takes: scale it down"),
        ("thin.png", "thin.png of 2000 x 1 pixels is too thin"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    name: str, message: str, viewer: Viewer, photo: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text("hello")
    if name in ("bomb.png", "worse.png"):
        bomb(path, 9000 if name == "bomb.png" else 60_000)
    elif name == "cut.png":
        path.write_bytes(photo.read_bytes()[:2000])
    elif name == "heavy.png":
        with open(path, "r+b") as file:
            file.truncate(40 * 2**20)
    elif name == "thin.png":
        cv2.imwrite(str(path), np.zeros((1, 2000, 3), np.uint8))
    with pytest.raises(DatasetError, match=message) as refused:
        viewer.read(path)
    assert str(tmp_path) not in str(refused.value)


def test_with_the_branches_off_it_is_fpn_with_the_same_weights(viewer: Viewer, weights: str, photo: Path) -> None:
    image = viewer.read(photo)
    cfg = viewer_config(CONFIG, ["MODEL.WEIGHTS", weights, *KEYS])
    cfg.defrost()
    cfg.MODEL.FPT.BRANCHES, cfg.MODEL.WEIGHTS = [], ""
    fpn = DefaultPredictor(cfg)
    result = fpn.model.load_state_dict(torch.load(weights)["model"], strict=False)
    assert not result.missing_keys
    expected = fpn(image[:, :, ::-1])["instances"]
    found = viewer.detect(image, branches=False)["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
    with_branches = viewer.detect(image)["instances"]
    assert len(with_branches) != len(found) or not torch.allclose(with_branches.scores, found.scores, atol=1e-3)
    again = viewer.detect(image, branches=False)
    assert again["instances"] is found, "a result that is there is computed again"


def test_the_threshold_and_a_picture(viewer: Viewer, photo: Path) -> None:
    image = viewer.read(photo)
    everything = viewer.objects(image, MIN_SCORE)
    scores = [score for _, score in everything]
    assert scores == sorted(scores, reverse=True)
    assert {name for name, _ in everything} <= {*viewer.metadata.thing_classes}
    middle = scores[len(scores) // 2]
    assert len(viewer.objects(image, middle)) == sum(score >= middle for score in scores)
    assert viewer.objects(image, 1.0) == []
    picture = viewer.draw(image, MIN_SCORE)
    assert picture.shape == (400, 640, 3) and scale_of(image) == 640 / 120
    assert not np.array_equal(picture, viewer.draw(image, 1.0))


def test_a_click_finds_the_smallest_object_there(viewer: Viewer, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((75, 120, 3), np.uint8)
    boxes = Boxes(torch.tensor([[0.0, 0, 100, 70], [10, 10, 30, 30], [5, 5, 40, 40]]))
    scores, classes = torch.tensor([0.9, 0.6, 0.3]), torch.tensor([0, 3, 1])
    found = Instances((75, 120), pred_boxes=boxes, scores=scores, pred_classes=classes)
    monkeypatch.setattr(viewer, "detect", lambda image, branches=True: {"instances": found})
    assert viewer.place_at(image, 0.5, 20, 20) == Place((10, 10, 30, 30), "star 60%")
    assert viewer.place_at(image, 0.2, 35, 35) == Place((5, 5, 40, 40), "square 30%")
    assert viewer.place_at(image, 0.5, 35, 35).title == "circle 90%"
    assert viewer.place_at(image, 0.5, 110, 72) == Place((110, 72, 110, 72), "pixel 110, 72")
    assert viewer.place_at(image, 0.5, 20, 20, objects=False).title == "pixel 20, 20"
    monkeypatch.setattr(viewer, "detect", lambda image, branches=True: {"sem_seg": torch.zeros(3, 75, 120)})
    assert viewer.objects(image, 0.1) == [] and viewer.place_at(image, 0.5, 20, 20).title == "pixel 20, 20"


def test_what_a_place_looked_at(viewer: Viewer, photo: Path) -> None:
    image = viewer.read(photo)
    assert viewer.levels == ["p2", "p3", "p4", "p5"]
    picture = viewer.look(image, Place((10, 10, 60, 50), "an object"), "p3")
    assert picture.format == "PNG" and min(picture.size) > 300


def test_a_model_without_branches(weights: str, photo: Path) -> None:
    file = model_zoo.get_config_file("quick_schedules/mask_rcnn_R_18_FPN_quickstart.yaml")
    bare = Viewer(viewer_config(file, ["MODEL.WEIGHTS", weights, *KEYS[2:]]))
    image = bare.read(photo)
    assert bare.levels == [] and bare.objects(image, MIN_SCORE)
    with pytest.raises(UserError, match="no branches to explore"):
        bare.look(image, Place((1, 1, 1, 1), "a pixel"))


@pytest.mark.parametrize("name", ["panoptic_fpt_R_18_quickstart", "ufp_fpt_R_50_quickstart"])
def test_semantic_and_panoptic_models(name: str, photo: Path, tmp_path: Path) -> None:
    file = model_zoo.get_config_file(f"quick_schedules/{name}.yaml")
    torch.manual_seed(0)
    torch.save({"model": build_model(read_config(file, [])).state_dict()}, tmp_path / "model.pth")
    of_model = Viewer(viewer_config(file, ["MODEL.WEIGHTS", str(tmp_path / "model.pth"), *KEYS[2:]]))
    image = of_model.read(photo)
    picture = of_model.draw(image, 0.5)
    assert picture.shape == (400, 640, 3) and picture.std() > 1
    assert of_model.draw(image, 0.5, branches=False).shape == picture.shape
    place = of_model.place_at(image, 0.99, 60, 30)
    assert place.title == "pixel 60, 30" and min(of_model.look(image, place).size) > 300


def test_images_of_the_test_set(viewer: Viewer, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "_samples", [str(photo)])
    assert viewer.num_samples == 1 and viewer.sample(5).shape == (75, 120, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--opts", "OUTPUT_DIR", "not/there"], "`make quickstart` trains the model that this page shows by default"),
        (["--opts", "MODEL.WEIGHTS", "not_there.pth"], "not_there.pth"),
        (["--port", "70000"], "--port is 70000; a port is a number from 1 to 65535"),
    ],
)
def test_a_command_that_cannot_be_served(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and "Traceback" not in error


def test_without_gradio_it_says_what_to_install(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main([])
    assert "The page needs Gradio: pip install" in capsys.readouterr().err
    assert not hasattr(module, "gradio")
