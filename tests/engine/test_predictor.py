"""fpt_d2.Predictor: image in, objects with names out; and what it says of a wrong image, config or name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.structures import Instances
from PIL import Image

import fpt_d2
from fpt_d2.config_file import read_config
from fpt_d2.engine.inference import build_predictor, get_inference_config
from fpt_d2.engine.predictor import NamesOfObjects, Predictor
from fpt_d2.errors import UserError
from tests.demo.conftest import config_file, write_image

__all__ = ["config_file", "write_image"]

NAMES = ["circle", "square", "triangle", "star", "ring", "cross"]


@pytest.fixture(scope="module")
def predictor(config_file: str) -> Predictor:
    return fpt_d2.Predictor(config_file, threshold=0.0, class_names=NAMES)


@pytest.fixture
def photo(write_image: Any) -> Path:
    return write_image("photo.png")


def same(one: Instances, other: Instances) -> bool:
    fields = ("scores", "pred_classes", "pred_masks")
    boxes = torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor)
    return boxes and all(torch.equal(one.get(field), other.get(field)) for field in fields)


def test_an_image_becomes_what_detectron2_predicts_with_names(predictor, photo, config_file) -> None:
    theirs = build_predictor(get_inference_config(config_file, min_score=0.0))(cv2.imread(str(photo)))["instances"]
    rgb = Image.open(photo)
    for image in (photo, str(photo), cv2.imread(str(photo)), rgb):
        instances = predictor(image)
        assert len(instances) == 5 and same(instances, theirs)
        assert instances.class_names == [NAMES[label] for label in instances.pred_classes]
    assert predictor.class_names == NAMES and predictor.metadata.thing_classes == NAMES
    assert {*predictor.predict(photo)} == {"instances"}


def test_objects_can_be_picked_with_their_names(predictor, photo) -> None:
    instances = predictor(photo)
    names = [*instances.class_names]
    assert instances[2:].class_names == names[2:] and instances[1].class_names == [names[1]]
    mask = instances.scores > instances.scores[2]
    assert instances[mask].class_names == [name for name, picked in zip(names, mask) if picked]
    assert instances[instances.scores.argsort()].class_names == names[::-1]
    assert Instances.cat([instances, instances]).class_names == names + names
    assert NamesOfObjects("ab")[-1] == "b" and NamesOfObjects("ab")[np.array([1, 0])] == ["b", "a"]
    assert NamesOfObjects("ab")[[]] == [] and isinstance(NamesOfObjects("ab")[:1], NamesOfObjects)


def test_images_of_pil_are_turned_and_scaled_as_files_are(predictor, tmp_path) -> None:
    deep = (np.random.default_rng(0).random((40, 60)) * 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    turned = Image.new("RGB", (60, 40), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    for name, size in (("deep.png", (40, 60)), ("turned.jpg", (60, 40))):
        instances = predictor(Image.open(tmp_path / name))
        assert instances.image_size == size and same(instances, predictor(tmp_path / name))


def test_a_config_may_be_a_file_a_name_or_read(config_file, photo, predictor, monkeypatch, tmp_path) -> None:
    cfg = read_config(config_file)
    weights = config_file.replace("config.yaml", "model_final.pth")
    before = cfg.dump()
    of_read = Predictor(cfg, weights, threshold=0.0, device="cpu", opts=["TEST.DETECTIONS_PER_IMAGE", 2])
    assert cfg.dump() == before and len(of_read(photo)) == 2
    assert of_read.class_names == [str(i) for i in range(6)]  # the data set is not known
    assert Predictor(config_file, threshold=None).cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.05
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="There is no trained model in ./output and MODEL.WEIGHTS is .*R-50"):
        Predictor("COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml")


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        ({"thing": NAMES}, NAMES),
        ({"thing": [*NAMES[:5], "\x1b[2J"]}, [*NAMES[:5], "\\x1b[2J"]),
        ({"thing": NAMES[:2]}, [*NAMES[:2], "2", "3", "4", "5"]),
        ({"thing": "circle", "stuff": 3}, list("012345")),
        ([1], list("012345")),
    ],
)
def test_names_that_were_saved_with_the_weights(saved, expected, config_file, tmp_path) -> None:
    weights = torch.load(config_file.replace("config.yaml", "model_final.pth"), weights_only=True)
    torch.save(weights | {"classes": saved}, tmp_path / "named.pth")
    assert Predictor(config_file, tmp_path / "named.pth").class_names == expected


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (np.zeros((4, 4), np.uint8), r"has the shape \(4, 4\); allowed: \(H, W, 3\), BGR: cv2.cvtColor"),
        (np.zeros((4, 4, 4), np.uint8), r"has the shape \(4, 4, 4\); allowed"),
        (np.zeros((0, 4, 3), np.uint8), r"has the shape \(0, 4, 3\); allowed"),
        (np.zeros((4, 4, 3)), "is of float64; allowed: uint8"),
        (np.zeros((1, 4000, 3), np.uint8), "that was given of 4000 x 1 pixels is too thin"),
        (torch.zeros(3, 4, 4), "is a tensor; allowed"),
        (None, "is a NoneType; allowed"),  # what cv2.imread returns for a file that does not exist
        ("none.jpg", "The image none.jpg cannot be read"),
        (Image.fromarray(np.zeros((4, 4), np.int32)), "The image cannot be read: it has integers of 32 bits"),
    ],
)
def test_a_wrong_image_is_one_sentence(image: Any, sentence: str, predictor) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        predictor(image)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"config": "none.yaml"}, "There is no config file none.yaml"),
        ({"config": 3}, "The config is a int; allowed: the path"),
        ({"config": get_cfg()}, "lacks fpt_d2's keys: call fpt_d2.add_fpt_config"),
        ({"weights": "none.pth"}, "There are no weights none.pth"),
        ({"opts": ["MODEL.NONE", 1]}, "there is no key MODEL.NONE"),
        ({"threshold": 50}, "threshold is 50; allowed: a score, 0 to 1"),
        ({"device": "gpu"}, "MODEL.DEVICE"),
        ({"class_names": ["a"]}, "There are 1 names of classes, and the model has 6: give one for each"),
        ({"threshold": "0.5"}, "threshold is '0.5'; allowed: a score, 0 to 1"),
        ({"opts": "MODEL.DEVICE cpu"}, "opts is 'MODEL.DEVICE cpu'; allowed: keys and values in turn"),
        ({"opts": {"MODEL.DEVICE": "cpu"}}, "opts is .* allowed: keys and values in turn"),
        ({"opts": ["MODEL.DEVICE"], "weights": "none.pth"}, "opts is .* allowed: keys and values in turn"),
        ({"device": 0}, "MODEL.DEVICE is '?0"),
        ({"class_names": "abcdef"}, "are 'abcdef'; allowed: a list"),
        ({"class_names": 6}, "are 6; allowed: a list"),
        ({"class_names": dict(enumerate(NAMES))}, "are {0: 'circle', .*; allowed: a list"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments: dict[str, Any], sentence: str, config_file: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Predictor(**{"config": config_file} | arguments)


def test_wrong_names_are_told_before_the_weights_are_read(config_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpt_d2.engine.predictor.build_predictor", lambda cfg: pytest.fail("the weights were read"))
    with pytest.raises(UserError, match="There are 1 names"):
        Predictor(config_file, class_names=["a"])


def test_a_device_of_torch(config_file: str) -> None:
    assert Predictor(config_file, device=torch.device("cpu")).cfg.MODEL.DEVICE == "cpu"
