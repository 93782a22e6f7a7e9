"""A model that is to predict takes no weights that are a part of it; one that is to be trained does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer, WeightsError
from fpt_d2.checkpoint.names import is_fpt

from .conftest import build, small_config


def with_branches(branches: list[str]) -> CfgNode:
    cfg = small_config(fpt=True)
    cfg.MODEL.FPT.BRANCHES = branches
    return cfg


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build(small_config(fpt=True), seed=1)


def assert_refused(model: nn.Module, path: str, said: str) -> None:
    FPTCheckpointer(model).load(path)
    with pytest.raises(WeightsError, match=said) as caught:
        FPTCheckpointer(model, whole=True).load(path)
    assert f"{path} is not the whole of this model" in str(caught.value) and "\n" not in str(caught.value)


def test_its_own_weights_and_those_of_its_fpn(fpn_model: nn.Module, save: Callable[..., str]) -> None:
    weights = build(small_config(fpt=True), seed=2).state_dict()
    for whole in (weights, fpn_model.state_dict(), {f"module.{name}": w for name, w in weights.items()}):
        FPTCheckpointer(build(small_config(fpt=True)), whole=True).load(save(whole))


def test_a_trunk_alone(model: nn.Module, fpn_model: nn.Module, save: Callable[..., str]) -> None:
    trunk = {n: w for n, w in fpn_model.state_dict().items() if n.startswith("backbone.bottom_up.")}
    assert_refused(model, save(trunk), r"it lacks \d+ tensors \(.*backbone\.fpn_lateral 8.*roi_heads\.box_predictor 4")


def test_a_head_that_is_missing_or_of_other_classes(
    model: nn.Module, fpn_model: nn.Module, save: Callable[..., str]
) -> None:
    weights = fpn_model.state_dict()
    del weights["roi_heads.mask_head.predictor.bias"]
    assert_refused(model, save(weights), r"it lacks 1 tensors \(roi_heads\.mask_head 1\): give the weights of a model")
    weights = {**fpn_model.state_dict(), "roi_heads.box_predictor.cls_score.bias": torch.ones(7)}
    assert_refused(model, save(weights), r"cls_score\.bias \(7,\) in the file, \(81,\) in the model: give")


def test_a_branch_that_is_missing(model: nn.Module, save: Callable[..., str]) -> None:
    weights = build(with_branches(["st", "gt"])).state_dict()
    said = r"it lacks \d+ tensors \(backbone\.fpn_output\.fuse 2, backbone\.fpt \d+\); shapes differ, backbone\.fpn_out"
    assert_refused(model, save(weights), said)


@pytest.mark.parametrize(
    ("key", "value"), [("FPT.ZERO_INIT_FUSE", False), ("BACKBONE.NAME", "build_resnet_bifpn_backbone")]
)
def test_fpn_weights_where_what_is_added_does_not_start_at_zero(
    key: str, value: Any, fpn_model: nn.Module, save: Callable[..., str]
) -> None:
    cfg = small_config(fpt=True)
    cfg.merge_from_list([f"MODEL.{key}", value])
    model = build(cfg, seed=1)
    assert any(is_fpt(name) for name in model.state_dict())
    assert_refused(model, save(fpn_model.state_dict()), r"it lacks \d+ tensors \(backbone\.")
