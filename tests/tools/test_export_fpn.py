"""The files that the two command lines over checkpoints write, read again by Detectron2's own checkpointer."""

from pathlib import Path

import convert_weights
import export_fpn
import pytest
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_resnet_backbone
from torch import nn

import fpt_d2


def pyramid(name: str) -> nn.Module:
    cfg = get_cfg()
    fpt_d2.add_fpt_config(cfg)
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.FPT.BRANCH_CHANNELS = 16
    return nn.ModuleDict({"backbone": build_backbone(cfg)}).eval()


@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_exported_fpn_computes_what_zero_fusion_computes(suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    fpt, fpn = pyramid("build_resnet_fpt_backbone"), pyramid("build_resnet_fpn_backbone")
    torch.save({"model": fpt.state_dict(), "iteration": 9}, tmp_path / "model_final.pth")
    out = tmp_path / "new" / f"fpn.{suffix}"
    export_fpn.main([str(tmp_path / "model_final.pth"), str(out)])
    DetectionCheckpointer(fpn).load(str(out))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        outputs, expected = fpn["backbone"](images), fpt["backbone"](images)
    for name, feature in expected.items():
        torch.testing.assert_close(outputs[name], feature)


def test_exporting_what_is_no_fpt(tmp_path: Path) -> None:
    path = str(tmp_path / "fpn.pth")
    torch.save({"model": pyramid("build_resnet_fpn_backbone").state_dict()}, path)
    with pytest.raises(SystemExit, match="The weights have nothing of FPT"):
        export_fpn.main([path, str(tmp_path / "out.pth")])
    with pytest.raises(SystemExit, match="nowhere.pth cannot be read: No such file"):
        export_fpn.main(["nowhere.pth", str(tmp_path / "out.pth")])
    assert not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize("wrap", [lambda weights: weights, lambda weights: {"state_dict": weights, "epoch": 3}])
def test_converted_resnet_loads_whole_into_detectron2(wrap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = torchvision.models.resnet18(weights=None)
    torch.save(wrap(source.state_dict()), tmp_path / "resnet18.pth")
    convert_weights.main([str(tmp_path / "resnet18.pth"), str(tmp_path / "R-18.pkl")])
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    trunk = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    before = trunk.res4[1].conv2.weight.clone()
    DetectionCheckpointer(trunk).load(str(tmp_path / "R-18.pkl"))
    assert torch.equal(trunk.res4[1].conv2.weight, source.layer3[1].conv2.weight)
    assert not torch.equal(trunk.res4[1].conv2.weight, before)


def test_converting_to_an_unknown_suffix(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(SystemExit, match=r"has the suffix '\.bin'"):
        convert_weights.main([str(tmp_path / "resnet18.pth"), str(tmp_path / "out.bin")])
