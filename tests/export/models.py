"""Small models with untrained weights that find something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import nn

import fpt_d2
from fpt_d2.engine.inference import build_predictor

MAX_KV_TOKENS = 48  # fewer than the positions of the finer levels
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
BACKBONES = {MASK_RCNN: "build_resnet_fpt_backbone", RETINANET: "build_retinanet_resnet_fpt_backbone"}


def small_config(name: str = MASK_RCNN, **options: object) -> CfgNode:
    """Of one of Detectron2's configs with FPT; options are keys of MODEL.FPT."""
    cfg = model_zoo.get_config(name)
    fpt_d2.add_fpt_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.NAME = "cpu", "", BACKBONES[name]
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 18, 64, 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.FPT.BRANCH_CHANNELS, cfg.MODEL.FPT.MAX_KV_TOKENS = 16, MAX_KV_TOKENS
    cfg.MODEL.FPT.ZERO_INIT_FUSE = False  # so that what FPT computes is in the outputs
    cfg.MODEL.FPT.update(options)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.TEST.DETECTIONS_PER_IMAGE = 20
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 128, 200
    cfg.DATASETS.TEST = ()
    return cfg


def two_levels(cfg: CfgNode) -> CfgNode:
    """With a pyramid of the coarsest levels alone, for formats that take long."""
    cfg.MODEL.FPN.IN_FEATURES = ["res4", "res5"]
    cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p4", "p5", "p6"], ["p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    return cfg


def with_statistics(model: nn.Module) -> nn.Module:
    """What an untrained model lacks: statistics of its norms, or activations explode, and scores that differ."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(20):  # the spread of pixel values
            model.train().backbone(74 * torch.randn(1, 3, 64, 96, generator=generator))
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_score.weight", "objectness_logits.weight")):
                nn.init.xavier_normal_(parameter)
                parameter *= 3 if name.startswith("head.") else 0.1  # neither so close that rounding sorts them nor 1
    return model.eval()


def save(cfg: CfgNode, folder: Path) -> CfgNode:
    """``cfg`` with weights in ``folder``, and itself as ``model.yaml``."""
    torch.manual_seed(0)
    torch.save({"model": with_statistics(build_model(cfg)).state_dict()}, folder / "model_final.pth")
    cfg.MODEL.WEIGHTS = str(folder / "model_final.pth")
    (folder / "model.yaml").write_text(cfg.dump())
    return cfg


def predictor(cfg: CfgNode, folder: Path) -> DefaultPredictor:
    return build_predictor(save(cfg, folder))


def photo(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a few rectangles of one colour on a gradient."""
    generator = np.random.default_rng(height)
    image = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3)) * [0.3, 0.6, 0.9]
    for _ in range(8):
        y, x = generator.integers(0, height * 3 // 4), generator.integers(0, width * 3 // 4)
        h, w = generator.integers(height // 8, height // 2), generator.integers(width // 8, width // 2)
        image[y : y + h, x : x + w] = generator.integers(0, 256, 3)
    return image.astype(np.uint8)


def semantic_config() -> CfgNode:
    from fpt_d2.config_file import get_default_config
    from tests.semantic import CONFIG

    cfg = get_default_config()
    cfg.merge_from_other_cfg(CfgNode(CONFIG))
    cfg.MODEL.FPT.ZERO_INIT_FUSE, cfg.DATASETS.TEST, cfg.INPUT.FORMAT = False, (), "RGB"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 200
    return cfg
