"""The lazy configs are their YAML twins: the same parameters, the same training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import instantiate
from detectron2.modeling import build_model
from omegaconf import OmegaConf
from torch import nn

from fpt_d2 import FPT, model_zoo
from fpt_d2.checkpoint.names import is_fpt

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob("*.py")
    if path.parent.name not in ("common", "quick_schedules")
)
TWINS = [name for name in NAMES if (CONFIGS / name).with_suffix(".yaml").exists()]


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def lazy_model(name: str) -> nn.Module:
    with torch.device("meta"):
        return instantiate(model_zoo.get_config(name).model)


def test_all_but_fcos_have_a_twin() -> None:
    assert set(NAMES) - set(TWINS) == {"COCO-Detection/fcos_R_50_FPT_1x.py"}


@pytest.mark.parametrize("name", TWINS)
def test_parameters_are_those_of_the_yaml(name: str) -> None:
    cfg = model_zoo.get_config(name.replace(".py", ".yaml"))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        twin = build_model(cfg)
    model = lazy_model(name)
    assert type(model.backbone) is FPT and type(model) is type(twin)
    assert shapes(model) == shapes(twin)
    frozen = {n for n, p in twin.named_parameters() if not p.requires_grad}
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize("name", TWINS)
def test_training_is_that_of_the_yaml(name: str) -> None:
    lazy, cfg = model_zoo.get_config(name), model_zoo.get_config(name.replace(".py", ".yaml"))
    transform = lazy.model.backbone.transform
    assert transform.st.max_kv_tokens == transform.gt.max_kv_tokens == cfg.MODEL.FPT.MAX_KV_TOKENS
    assert lazy.train.init_checkpoint == cfg.MODEL.WEIGHTS
    assert (lazy.optimizer.lr, lazy.train.max_iter) == (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER)
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert lazy.dataloader.train.dataset.names in cfg.DATASETS.TRAIN
    assert lazy.dataloader.test.dataset.names in cfg.DATASETS.TEST
    assert lazy.dataloader.train.dataset.get("filter_empty", True) == cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    mapper = lazy.dataloader.train.mapper
    assert mapper.use_instance_mask == cfg.MODEL.MASK_ON
    assert mapper.get("use_keypoint", False) == cfg.MODEL.KEYPOINT_ON
    if "proposal_generator" in lazy.model:
        topk = cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        assert tuple(lazy.model.proposal_generator.post_nms_topk) == topk


def test_fcos_is_detectron2s_but_for_the_neck() -> None:
    (name,) = set(NAMES) - set(TWINS)
    ours, theirs = model_zoo.get_config(name), detectron2_model_zoo.get_config(name.replace("FPT", "FPN"))
    for cfg in (ours, theirs):
        del cfg.model.backbone._target_
    del ours.model.backbone.transform, ours.model.backbone.zero_init_fuse
    assert [key for key in theirs if OmegaConf.to_container(ours[key]) != OmegaConf.to_container(theirs[key])] == []


def test_fcos_has_fpns_parameters_and_those_of_the_transform() -> None:
    (name,) = set(NAMES) - set(TWINS)
    with torch.device("meta"):
        fpn = instantiate(detectron2_model_zoo.get_config(name.replace("FPT", "FPN")).model)
    ours = shapes(lazy_model(name))
    assert {n: shape for n, shape in ours.items() if not is_fpt(n)} == shapes(fpn)
    assert any(n.startswith("backbone.fpt.gt.p3_p5") for n in ours)
