"""Every family of detectors with FPT, end to end: training, inference, and what is not finite, at tiny sizes.

The models are those of the quick schedules, made smaller.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from typing import Any

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage
from torch import nn

from fpt_d2 import FPT, model_zoo
from fpt_d2.engine import read_config
from fpt_d2.modeling import check_model

HAS_POINT_REND = importlib.util.find_spec("detectron2.projects.point_rend") is not None
POINT_REND = "pointrend_rcnn_R_18_FPT_quickstart.yaml"
CONFIGS = [
    "faster_rcnn_R_18_FPT_quickstart.yaml",
    "mask_rcnn_R_18_FPT_quickstart.yaml",
    "cascade_rcnn_R_18_FPT_quickstart.yaml",
    "cascade_mask_rcnn_R_18_FPT_quickstart.yaml",
    "keypoint_rcnn_R_18_FPT_quickstart.yaml",
    "retinanet_R_18_FPT_quickstart.yaml",
    "panoptic_fpt_R_18_quickstart.yaml",
    "rpn_R_18_FPT_quickstart.yaml",
    "fcos_R_18_FPT_quickstart.py",
    pytest.param(POINT_REND, marks=pytest.mark.skipif(not HAS_POINT_REND, reason="no detectron2.projects.point_rend")),
]
FIELDS = {"mask": "pred_masks", "pointrend": "pred_masks", "panoptic": "pred_masks", "keypoint": "pred_keypoints"}
NUM_KEYPOINTS = 5
SIZES = [(64, 96), (50, 80)]


@cache
def model(name: str, *, fpt: bool = True) -> nn.Module:
    """A small model of a quick schedule; without ``fpt``, its FPN. Not to be changed."""
    torch.manual_seed(0)
    cfg = model_zoo.get_config(f"quick_schedules/{name}")
    if name.endswith(".py"):
        cfg.model.backbone.transform.channels = 16
        if not fpt:
            cfg.model.backbone.transform = None
        return instantiate(cfg.model)
    cfg.MODEL.FPT.BRANCH_CHANNELS = 16
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 20, 10
    if not fpt:
        cfg.MODEL.FPT.BRANCHES = []
    check_model(cfg)
    return build_model(cfg)


def instances(size: tuple[int, int], number: int) -> Instances:
    """All that any family learns from; ``number`` of them, one or none."""
    height, width = size
    found = Instances(size)
    found.gt_boxes = Boxes(torch.tensor([[8.0, 6.0, 40.0, 38.0]])[:number])
    found.gt_classes = torch.zeros(number, dtype=torch.int64)
    masks = torch.zeros(number, height, width, dtype=torch.bool)
    masks[:, 6:38, 8:40] = True
    found.gt_masks = BitMasks(masks)
    tips = [[10.0 + 5 * k, 8.0 + 5 * k, 2.0] for k in range(NUM_KEYPOINTS)]
    found.gt_keypoints = Keypoints(torch.tensor([tips]).reshape(1, NUM_KEYPOINTS, 3)[:number])
    return found


def batch(numbers: tuple[int, ...], fill: float | None = None) -> list[dict[str, Any]]:
    """Images of different sizes with so many instances; noise, or one value all over."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for size, number in zip(SIZES, numbers):
        image = torch.rand(3, *size, generator=generator) * 255 if fill is None else torch.full((3, *size), fill)
        labels = torch.zeros(size, dtype=torch.int64)
        labels[size[0] // 2 :] = 1
        gt = instances(size, number)
        inputs.append({"image": image, "height": size[0], "width": size[1], "instances": gt, "sem_seg": labels})
    return inputs


def losses(net: nn.Module, inputs: list[dict[str, Any]]) -> torch.Tensor:
    net.train().zero_grad()
    with EventStorage():
        return sum(net(inputs).values())


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("numbers", [(1, 1), (0, 1), (0, 0)], ids=["normal", "half empty", "empty"])
def test_training_step(name: str, numbers: tuple[int, ...]) -> None:
    if name == POINT_REND and not any(numbers):
        pytest.skip("Detectron2's PointRend does not train on a batch without any instance")
    net = model(name)
    loss = losses(net, batch(numbers))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    fuse = [p for n, p in net.named_parameters() if ".fuse." in n]
    assert fuse and all(p.grad is not None and p.grad.any() for p in fuse)


@pytest.mark.parametrize("name", CONFIGS)
def test_inference(name: str) -> None:
    net = model(name).eval()
    with torch.no_grad():
        outputs = net([{key: x[key] for key in ("image", "height", "width")} for x in batch((0, 0))])
    assert isinstance(net.backbone, FPT) and len(outputs) == len(SIZES)
    for output, size in zip(outputs, SIZES):
        found = output["proposals" if name.startswith("rpn") else "instances"]
        assert found.image_size == size
        expected = FIELDS.get(name.removeprefix("cascade_").split("_")[0])
        assert expected is None or found.has(expected)
        if name.startswith("panoptic"):
            assert output["sem_seg"].shape == (5, *size) and output["panoptic_seg"][0].shape == size


def outcome(net: nn.Module, value: float) -> tuple[str, int]:
    """What a model makes of images that are not finite: in training, and how many detections in inference."""
    try:
        trained = "finite" if losses(net, batch((1, 1), value)).isfinite() else "loss not finite"
    except (FloatingPointError, AssertionError):  # the latter from FCOS, of its boxes
        trained = "an error"
    with torch.no_grad():
        outputs = net.eval()(batch((1, 1), value))
    return trained, sum(len(output.get("instances", output.get("proposals"))) for output in outputs)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_ends_as_it_does_with_fpn(name: str, value: float) -> None:
    """In training by an error or a loss that Detectron2's trainer stops at; in inference without detections."""
    ours = outcome(model(name), value)
    assert ours[0] != "finite" and ours[1] == 0
    assert ours == outcome(model(name, fpt=False), value)


@pytest.mark.skipif(not HAS_POINT_REND, reason="no detectron2.projects.point_rend")
def test_point_rends_keys_are_there_for_configs_that_have_any() -> None:
    assert "POINT_HEAD" not in model_zoo.get_config("quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml").MODEL
    cfg = read_config(model_zoo.get_config_file(f"quick_schedules/{POINT_REND}"), ["MODEL.ROI_HEADS.NUM_CLASSES", "3"])
    with pytest.raises(ValueError, match="POINT_HEAD.NUM_CLASSES is 6; allowed: MODEL.ROI_HEADS.NUM_CLASSES 3"):
        check_model(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.INPUT.MASK_FORMAT = 6, "polygon"
    with pytest.raises(ValueError, match="INPUT.MASK_FORMAT is 'polygon'; allowed: 'bitmask'"):
        check_model(cfg)


def test_without_point_rend_its_configs_end_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2.projects.point_rend", None)
    path = model_zoo.get_config_file(f"quick_schedules/{POINT_REND}")
    for read in (lambda: read_config(path), lambda: model_zoo.get_config(f"quick_schedules/{POINT_REND}")):
        with pytest.raises(ValueError, match="needs Detectron2.s project point_rend, .* comes without: install one"):
            read()
