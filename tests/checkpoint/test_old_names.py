"""Checkpoints of version 0.1, whose FPT had other names for its fusion and its bottom-up path."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.model_zoo import get_config

from .conftest import build, detect, small_config


def old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as version 0.1 saved them: one fusing convolution a level, over all its branches."""
    old: dict[str, Any] = {}
    for name, weight in weights.items():
        name = re.sub(r"pyramid\.down\.p(\d)\.", r"bfp_down\1.", name)
        name = re.sub(r"fpn_output(\d)\.fuse\.\d+\.", r"fpt_fuse\1.", name)
        name = re.sub(r"ufp_output\.(u\d+)\.fuse\.\d+\.", r"fpt_fuse.\1.", name)
        old[name] = torch.cat((old[name], weight), 1) if "fpt_fuse" in name and name in old else weight
    return old


def model(pyramid: str, seed: int, branches: tuple[str, ...] = ("st", "gt", "rt")) -> nn.Module:
    cfg = small_config(fpt=True)
    cfg.MODEL.FPT.PYRAMID, cfg.MODEL.FPT.BRANCHES = pyramid, list(branches)
    cfg.MODEL.FPT.ZERO_INIT_FUSE = False
    return build(cfg, seed)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("extra", [{}, {"matching_heuristics": True}], ids=["names", "ends of names"])
@pytest.mark.parametrize("pyramid", ["fpn", "bfp"])
def test_detector_of_version_0_1_loads_whole(
    pyramid: str, extra: dict[str, Any], prefix: str, save: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    source, target = model(pyramid, seed=0), model(pyramid, seed=1)
    weights = old_names(source.state_dict())
    assert {n for n in weights if "fuse" in n} == {f"backbone.fpt_fuse{n}.weight" for n in (2, 3, 4, 5)}
    assert {n for n in weights if "down3" in n} == ({"backbone.bfp_down3.weight"} if pyramid == "bfp" else set())
    caplog.set_level(logging.INFO, logger="fpt_d2")
    path = save({f"{prefix}{name}": weight for name, weight in weights.items()}, **extra)
    FPTCheckpointer(target, whole=True).load(path)
    for name, weight in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], weight), name
    assert "missing" not in caplog.text and "unexpected" not in caplog.text
    for ours, expected in zip(detect(target), detect(source), strict=True):
        assert torch.equal(ours, expected)


def segmentor(seed: int) -> nn.Module:
    cfg = get_config("Cityscapes-SemanticSegmentation/ufp_fpt_R_50.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = "cpu", "", 8
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 16
    cfg.MODEL.UFP.OUT_CHANNELS = cfg.MODEL.FPT.BRANCH_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.FPT.ZERO_INIT_FUSE = False
    return build(cfg, seed)


def test_equal_sized_pyramid_of_version_0_1_loads_whole(save: Callable[..., str]) -> None:
    source, target = segmentor(0), segmentor(1)
    weights = old_names(source.state_dict())
    assert {n for n in weights if "fuse" in n} == {f"backbone.fpt_fuse.u{k}.weight" for k in (1, 7, 15, 31)}
    FPTCheckpointer(target, whole=True).load(save(weights))
    images = [{"image": torch.rand(3, 64, 72) * 255}]
    with torch.no_grad():
        assert torch.equal(target(images)[0]["sem_seg"], source(images)[0]["sem_seg"])


def test_fusion_of_other_branches_is_reported_and_not_cut(save: Callable[..., str]) -> None:
    """Two branches of version 0.1 are no part of a model with three."""
    weights = old_names(model("fpn", 0, ("st", "gt")).state_dict())
    with pytest.raises(ValueError, match="is not the whole of this model"):
        FPTCheckpointer(model("fpn", 1), whole=True).load(save(weights))
