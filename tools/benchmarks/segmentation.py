"""Segmentation with and without FPT: ResNet-101 with the equal-sized pyramid (output stride 8), and a narrow model.

The latter is the Semantic FPN of the configs for CamVid, whole, at 64 channels over a small trunk.
"""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from torch import Tensor

from fpt_d2 import model_zoo
from fpt_d2.modeling import UFP, build_resnet_ufp_backbone

from .detectors import workload_of
from .kernels import NARROW_CHANNELS, NARROW_KEYS
from .necks import CHEAP, NECKS, run_textbook
from .workload import Entry, Setting, Workload

CASE = "UFP R101"
CONFIG = "Cityscapes-SemanticSegmentation/ufp_fpt_R_101.yaml"
TEXTBOOK = "UFP + FPT textbook"

SEMANTIC_CONFIG = "CamVid-SemanticSegmentation/semantic_lite0_FPT.yaml"
SMALL_TRUNK = "lite0" if find_spec("timm") else "R18"
SEMANTIC_CASE = f"Semantic FPN, {NARROW_CHANNELS} channels, {SMALL_TRUNK}"
CROPS = (256, 320, 8)  # height, width, batch
_WIDE = ("MODEL.FPT.BRANCH_CHANNELS", NARROW_CHANNELS, "MODEL.FPT.MAX_KV_TOKENS", NARROW_KEYS)
_WIDE += ("MODEL.FPT.GT_NUM_PARTS", 4)
# The keys in which a model differs from the config, which has 32 branch channels, 64 keys and two parts.
SEMANTIC: dict[str, tuple[Any, ...]] = {
    "FPN": NECKS["FPN"],
    "BFP": NECKS["BFP"],
    "FPT as in the config": (),
    f"FPT, {NARROW_KEYS} keys": _WIDE,
    f"FPT, {NARROW_KEYS} keys, summed at stride 8": (*_WIDE, *CHEAP),
    f"FPT, {NARROW_KEYS} keys, dot": (*_WIDE, "MODEL.FPT.GT_SIMILARITY", "dot"),
}


def entries(device: str) -> list[Entry]:
    outline = partial(_make, TEXTBOOK)
    ours = Entry(CASE, "UFP + FPT", partial(_make, "UFP + FPT"), outline, (TEXTBOOK,))
    semantic = [
        Entry(SEMANTIC_CASE, name, partial(_make_semantic, name), baseline=("FPN",), work_baseline="FPN", usual=CROPS)
        for name in SEMANTIC
    ]
    return [Entry(CASE, "UFP", partial(_make, "UFP")), ours, Entry(CASE, TEXTBOOK, outline, outline), *semantic]


def build_backbone(name: str) -> UFP:
    cfg = model_zoo.get_config(CONFIG)
    if name == "UFP":
        cfg.MODEL.FPT.BRANCHES = []
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.UFP, cfg.MODEL.FPT):
        node.NORM = "BN"  # SyncBN trains on GPUs only
    return build_resnet_ufp_backbone(cfg, ShapeSpec(channels=3))


def _make(name: str, setting: Setting) -> Workload:
    with torch.device(setting.device):
        backbone = setting.laid_out(build_backbone(name))
    images = setting.laid_out(torch.randn(setting.batch, 3, setting.height, setting.width, device=setting.device))

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            feature = backbone.bottom_up(images)[backbone.in_feature]
            if name != TEXTBOOK:
                return list(backbone.neck(feature).values())
            source = {level: conv(feature) for level, conv in backbone.global_conv.items()}
            return list(run_textbook(source, None, transform=backbone.fpt, fusions=backbone.ufp_output).values())

    return Workload(run, list(backbone.parameters()))


def semantic_config(name: str, device: str) -> CfgNode:
    cfg = model_zoo.get_config(SEMANTIC_CONFIG)
    cfg.MODEL.WEIGHTS, cfg.MODEL.TRUNK.PRETRAINED, cfg.MODEL.DEVICE = "", False, device
    # Of random weights: frozen statistics, those of no data, would let the features grow or vanish.
    cfg.MODEL.TRUNK.NORM = "BN"
    if SMALL_TRUNK == "R18":
        cfg.MODEL.TRUNK.BUILDER = "build_resnet_backbone"
        resnets = cfg.MODEL.RESNETS
        resnets.DEPTH, resnets.RES2_OUT_CHANNELS, resnets.NORM = 18, 64, "BN"
        resnets.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES
    cfg.merge_from_list(list(SEMANTIC[name]))
    return cfg


def _make_semantic(name: str, setting: Setting) -> Workload:
    cfg = semantic_config(name, setting.device)
    model = setting.laid_out(build_model(cfg))
    size = (setting.height, setting.width)
    inputs = [
        {
            "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8),
            "sem_seg": torch.randint(0, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, size),
        }
        for _ in range(setting.batch)
    ]
    return workload_of(model, inputs, setting)
