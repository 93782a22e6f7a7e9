"""ResNet-101 with the equal-sized pyramid of segmentation (output stride 8), whole, with and without FPT over it."""

from __future__ import annotations

from functools import partial

import torch
from detectron2.layers import ShapeSpec
from torch import Tensor

from fpt_d2 import model_zoo
from fpt_d2.modeling import UFP, build_resnet_ufp_backbone

from .necks import run_textbook
from .workload import Entry, Setting, Workload

CASE = "UFP R101"
CONFIG = "Cityscapes-SemanticSegmentation/ufp_fpt_R_101.yaml"
TEXTBOOK = "UFP + FPT textbook"


def entries(device: str) -> list[Entry]:
    outline = partial(_make, TEXTBOOK)
    ours = Entry(CASE, "UFP + FPT", partial(_make, "UFP + FPT"), outline, (TEXTBOOK,))
    return [Entry(CASE, "UFP", partial(_make, "UFP")), ours, Entry(CASE, TEXTBOOK, outline, outline)]


def build_backbone(name: str) -> UFP:
    cfg = model_zoo.get_config(CONFIG)
    if name == "UFP":
        cfg.MODEL.FPT.BRANCHES = []
    for node in (cfg.MODEL.RESNETS, cfg.MODEL.UFP, cfg.MODEL.FPT):
        node.NORM = "BN"  # SyncBN trains on GPUs only
    return build_resnet_ufp_backbone(cfg, ShapeSpec(channels=3))


def _make(name: str, setting: Setting) -> Workload:
    with torch.device(setting.device):
        backbone = build_backbone(name)
    images = torch.randn(setting.batch, 3, setting.height, setting.width, device=setting.device)

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            feature = backbone.bottom_up(images)[backbone.in_feature]
            if name != TEXTBOOK:
                return list(backbone.neck(feature).values())
            source = {level: conv(feature) for level, conv in backbone.global_conv.items()}
            return list(run_textbook(source, None, transform=backbone.fpt, fusions=backbone.ufp_output).values())

    return Workload(run, list(backbone.parameters()))
