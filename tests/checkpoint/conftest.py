"""Small models of Detectron2's zoo, with FPN as there or with FPT in its place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

import fpt_d2

MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
FPT_BUILDERS = {
    "build_resnet_fpn_backbone": "build_resnet_fpt_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_resnet_fpt_backbone",
}


def small_config(name: str = MASK_RCNN, *, fpt: bool, depth: int = 18) -> CfgNode:
    cfg: CfgNode = model_zoo.get_config(name)
    fpt_d2.add_fpt_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    if depth < 50:
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = depth, 64
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (32, 32)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.TEST.DETECTIONS_PER_IMAGE = 20
    cfg.MODEL.FPT.BRANCH_CHANNELS = 16
    if fpt:
        cfg.MODEL.BACKBONE.NAME = FPT_BUILDERS[cfg.MODEL.BACKBONE.NAME]
    return cfg


def build(cfg: CfgNode, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(cfg).eval()


def detect(model: nn.Module) -> list[torch.Tensor]:
    """All that the model puts out for one image."""
    image = torch.randint(0, 256, (3, 100, 128), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        output = model([{"image": image, "height": 100, "width": 128}])[0]
    tensors = [output["sem_seg"], output["panoptic_seg"][0]] if "sem_seg" in output else []
    for field in output["instances"].get_fields().values():
        tensors.append(field if isinstance(field, torch.Tensor) else field.tensor)
    return [t.float() for t in tensors]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def fpn_model() -> nn.Module:
    """Mask R-CNN with FPN. Not to be changed."""
    return build(small_config(fpt=False))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., str]:
    """Write a checkpoint as Detectron2 does."""

    def save(weights: Any, name: str = "weights.pth", **extra: Any) -> str:
        torch.save({"model": weights, **extra}, tmp_path / name)
        return str(tmp_path / name)

    return save
