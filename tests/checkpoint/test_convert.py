"""Conversions are right when the models compute the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from torch import nn

from fpt_d2.checkpoint import WeightsError, convert_resnet, fpn_part

from .conftest import build, detect, small_config

RESNETS = {
    "resnet18": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
    "resnet50": {"DEPTH": 50},
    "resnext50_32x4d": {"DEPTH": 50, "NUM_GROUPS": 32, "WIDTH_PER_GROUP": 4},
}


def detectron2_trunk(settings: dict[str, Any]) -> nn.Module:
    cfg = get_cfg()
    for key, value in settings.items():
        setattr(cfg.MODEL.RESNETS, key, value)
    cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.OUT_FEATURES = False, ["res2", "res5"]
    trunk: nn.Module = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    return trunk.eval()


@pytest.mark.parametrize("name", RESNETS)
def test_converted_trunk_computes_what_torchvision_computes(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = getattr(torchvision.models, name)(weights=None)
    with torch.no_grad():  # running statistics that are not those of a new model
        source.train()(torch.randn(2, 3, 64, 64))
    trunk = detectron2_trunk(RESNETS[name])
    torch.save(convert_resnet(source.state_dict()), tmp_path / "trunk.pth")
    DetectionCheckpointer(trunk).load(str(tmp_path / "trunk.pth"))  # Detectron2's own can load it

    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        source.eval()
        y = source.maxpool(source.relu(source.bn1(source.conv1(x))))
        expected = {"res2": (y := source.layer1(y)), "res5": source.layer4(source.layer3(source.layer2(y)))}
        outputs = trunk(x)
    for stage, feature in expected.items():
        assert feature.std() > 0.01
        torch.testing.assert_close(outputs[stage], feature, atol=1e-4, rtol=1e-4)


def test_only_plain_resnets_are_converted() -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(WeightsError, match=r"layer1\.0\.se\.fc1\.weight is not part of a plain ResNet"):
        convert_resnet({**weights, "layer1.0.se.fc1.weight": torch.zeros(1)})


def test_names_of_a_data_parallel_model() -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    wrapped = convert_resnet({f"module.{name}": w for name, w in weights.items()})
    assert wrapped["model"].keys() == convert_resnet(weights)["model"].keys()


def test_fpn_part_is_the_fpn_that_zero_fusion_leaves(save: Callable[..., str]) -> None:
    fpt = build(small_config(fpt=True), seed=3)
    fpn = build(small_config(fpt=False), seed=4)
    incompatible = fpn.load_state_dict(fpn_part(fpt.state_dict()), strict=True)
    assert not incompatible.missing_keys
    for a, b in zip(detect(fpt), detect(fpn), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


def test_fpn_part_of_an_fpn(fpn_model: nn.Module) -> None:
    with pytest.raises(WeightsError, match="nothing of FPT"):
        fpn_part(fpn_model.state_dict())
