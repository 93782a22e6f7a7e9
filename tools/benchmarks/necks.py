"""Whole necks over the features of a ResNet-50, laterals and output convolutions included, and the trunk itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_resnet_backbone
from torch import Tensor

from fpt_d2.config import add_fpt_config
from fpt_d2.core import Fusion, PyramidTransform, reference
from fpt_d2.core.fusion import fuse
from fpt_d2.modeling import FPT, BiFPN, build_fpt_backbone

from .kernels import other_paths
from .workload import Entry, Setting, Workload

CASE = "neck"
TRUNK = "R50 trunk"
Neck = FPT | BiFPN
# Detectron2 pads images to a multiple of the coarsest stride.
DIVISIBILITY = 32
FEATURES = {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}  # channels, stride

# Neck by name: the keys in which it differs from the config defaults.
EXACT = ("MODEL.FPT.MAX_KV_TOKENS", 0, "MODEL.FPT.KV_STRIDE", 1)
BUDGET = ("MODEL.FPT.MAX_KV_TOKENS", 1024)
# The authors' grounding, which folds into the fusion convolution.
DOT = (*BUDGET, "MODEL.FPT.GT_SIMILARITY", "dot")
# Branches summed before one convolution, at stride 8 and coarser.
CHEAP = ("MODEL.FPT.FUSE", "sum", "MODEL.FPT.MIN_STRIDE", 8)
LIGHT = (*CHEAP, "MODEL.FPT.MAX_KV_TOKENS", 256, "MODEL.FPT.BRANCH_CHANNELS", 64)
NECKS: dict[str, tuple[Any, ...]] = {
    "FPN": ("MODEL.FPT.BRANCHES", []),
    "BFP": ("MODEL.FPT.BRANCHES", [], "MODEL.FPT.PYRAMID", "bfp"),
    "BiFPN": ("MODEL.BACKBONE.NAME", "build_resnet_bifpn_backbone"),
    "FPT budget": BUDGET,
    "FPT budget, no Winograd": (*BUDGET, "MODEL.FPT.WINOGRAD", False),
    "FPT budget, dot": DOT,
    "FPT budget, summed at stride 8": (*BUDGET, *CHEAP),
    "FPT light": LIGHT,
}
# Without Triton's kernels, which the default takes on a GPU in half precision.
SDPA = ("MODEL.FPT.ATTENTION_IMPL", "sdpa")
NECKS_ON_GPU: dict[str, tuple[Any, ...]] = {"FPT budget, torch's attention": (*BUDGET, *SDPA)}


def entries(device: str) -> list[Entry]:
    outline = partial(_make_neck, "FPT textbook")
    names = [*NECKS, *(NECKS_ON_GPU if "triton" in other_paths(device) else [])]
    return [
        Entry(CASE, TRUNK, _make_trunk),
        *(Entry(CASE, name, partial(_make_neck, name), baseline=(TRUNK, "FPN")) for name in names),
        Entry(CASE, "FPT exact", partial(_make_neck, "FPT exact"), outline, baseline=("FPT textbook",)),
        Entry(CASE, "FPT textbook", outline, outline),
    ]


class GivenFeatures(Backbone):
    """Stands in the place of the trunk: a ResNet-50's feature maps are what the neck is given."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = list(FEATURES)
        self._out_feature_channels = {n: channels for n, (channels, _) in FEATURES.items()}
        self._out_feature_strides = {n: stride for n, (_, stride) in FEATURES.items()}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features


def build_neck(keys: Sequence[Any]) -> Neck:
    """The neck of the config defaults with these keys and values in a row."""
    cfg = _config()
    cfg.MODEL.FPN.IN_FEATURES = list(FEATURES)
    cfg.merge_from_list(list(keys))
    if "bifpn" in cfg.MODEL.BACKBONE.NAME:
        fpn, bifpn = cfg.MODEL.FPN, cfg.MODEL.BIFPN
        return BiFPN(GivenFeatures(), fpn.IN_FEATURES, fpn.OUT_CHANNELS, num_layers=bifpn.NUM_LAYERS, norm=bifpn.NORM)
    return build_fpt_backbone(cfg, GivenFeatures(), None)


def run_neck(neck: Neck, features: dict[str, Tensor], *, as_textbook: bool = False) -> list[Tensor]:
    if isinstance(neck, BiFPN):
        return list(neck(features).values())
    # Not from an image: nothing is padded.
    run = run_textbook if as_textbook else fuse
    return list(run(neck.source_pyramid(features), None, transform=neck.fpt, fusions=neck.fusions).values())


def run_textbook(
    source: dict[str, Tensor], valid: None, *, transform: PyramidTransform, fusions: dict[str, Fusion]
) -> dict[str, Tensor]:
    """What ``fuse`` computes, as a textbook does: every score is stored, every level is one concatenation."""
    branches = reference.pyramid_transform(transform, source)
    ratios = {} if transform is None else transform.ratios
    return {n: reference.fuse(fusions[n], x, branches.get(n), ratios.get(n, 1)) for n, x in source.items()}


def _make_neck(name: str, setting: Setting) -> Workload:
    with torch.device(setting.device):
        neck = build_neck({**NECKS, **NECKS_ON_GPU}.get(name, EXACT))
    padded = _padded(setting)
    features = {
        n: torch.randn(setting.batch, channels, *padded.level(stride), device=setting.device, requires_grad=True)
        for n, (channels, stride) in FEATURES.items()
    }

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            return run_neck(neck, features, as_textbook=name == "FPT textbook")

    return Workload(run, [*features.values(), *neck.parameters()])


def _make_trunk(setting: Setting) -> Workload:
    cfg = _config()
    cfg.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    with torch.device(setting.device):
        trunk = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    padded = _padded(setting)
    images = torch.randn(setting.batch, 3, padded.height, padded.width, device=setting.device)

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            return [out for out in trunk(images).values() if not training or out.requires_grad]

    return Workload(run, list(trunk.parameters()))


def _config() -> CfgNode:
    cfg = get_cfg()
    add_fpt_config(cfg)
    return cfg


def _padded(setting: Setting) -> Setting:
    height, width = (n * DIVISIBILITY for n in setting.level(DIVISIBILITY))
    return Setting(height, width, setting.batch, setting.device, setting.dtype)
