"""Whole necks over the features of a ResNet-50, laterals and output convolutions included, and the trunk itself.

So too over those of a small trunk, at 64 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone, build_resnet_backbone
from torch import Tensor, nn

from fpt_d2.config import add_fpt_config
from fpt_d2.core import Fusion, PyramidTransform, reference
from fpt_d2.core.fusion import fuse
from fpt_d2.modeling import FPT, BiFPN, build_fpt_backbone

from .kernels import NARROW_CHANNELS, NARROW_KEYS, other_paths
from .peers import PAFPN, DeformableEncoder, deformable_encoder_macs, dyhead_macs
from .workload import Entry, Setting, Workload

CASE = "neck"
NARROW_CASE = f"neck, {NARROW_CHANNELS} channels"
TRUNK = "R50 trunk"
Neck = FPT | BiFPN
ENCODER = "Deformable-DETR encoder"
# Detectron2 pads images to a multiple of the coarsest stride.
DIVISIBILITY = 32
Features = Mapping[str, tuple[int, int]]
FEATURES: Features = {"res2": (256, 4), "res3": (512, 8), "res4": (1024, 16), "res5": (2048, 32)}  # channels, stride
# Of timm's tf_efficientnet_lite0.
SMALL_FEATURES: Features = {"res2": (24, 4), "res3": (40, 8), "res4": (112, 16), "res5": (320, 32)}
ENCODER_WIDTHS = [FEATURES[n][0] for n in ("res3", "res4", "res5")]

# Neck by name: the keys in which it differs from the config defaults.
EXACT = ("MODEL.FPT.MAX_KV_TOKENS", 0, "MODEL.FPT.KV_STRIDE", 1)
BUDGET = ("MODEL.FPT.MAX_KV_TOKENS", 1024, "MODEL.FPT.FUSE", "concat", "MODEL.FPT.MIN_STRIDE", 0)
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


# What the config keys do not build.
PEERS: dict[str, Callable[[], nn.Module]] = {
    "PAFPN": lambda: PAFPN(build_neck(NECKS["FPN"]), ("p2", "p3", "p4", "p5"), _config().MODEL.FPN.OUT_CHANNELS),
    ENCODER: lambda: DeformableEncoder(ENCODER_WIDTHS),
}
FORMULAS: dict[str, Callable[[Setting], int]] = {
    f"{ENCODER}, samples counted": partial(deformable_encoder_macs, ENCODER_WIDTHS),
    "DyHead, 6 blocks over FPN": dyhead_macs,
}

_NARROW = ("MODEL.FPN.OUT_CHANNELS", NARROW_CHANNELS, "MODEL.FPT.BRANCH_CHANNELS", NARROW_CHANNELS)
_FPT_NARROW = (*_NARROW, "MODEL.FPT.MAX_KV_TOKENS", NARROW_KEYS)
NARROW_NECKS: dict[str, tuple[Any, ...]] = {
    **{f"{name} narrow": (*_NARROW, *NECKS[name]) for name in ("FPN", "BFP", "BiFPN")},
    "FPT narrow": _FPT_NARROW,
    "FPT narrow, summed at stride 8": (*_FPT_NARROW, *CHEAP),
    "FPT narrow, dot": (*_FPT_NARROW, "MODEL.FPT.GT_SIMILARITY", "dot"),
}


def entries(device: str) -> list[Entry]:
    """Peers, FPT, its textbook; those that have a formula alone; the narrow ones."""
    outline = partial(_make_neck, "FPT textbook")
    ours = [*NECKS, *(NECKS_ON_GPU if "triton" in other_paths(device) else [])]
    # Peers first.
    names = sorted([*ours, *PEERS], key=lambda name: name.startswith("FPT"))
    rows = [
        Entry(CASE, TRUNK, _make_trunk),
        *(Entry(CASE, name, partial(_make_neck, name), baseline=(TRUNK, "FPN")) for name in names),
        Entry(CASE, "FPT exact", partial(_make_neck, "FPT exact"), outline, baseline=("FPT textbook",)),
        Entry(CASE, "FPT textbook", outline, outline),
        *(Entry(CASE, name, None, formula=partial(_of_padded, macs)) for name, macs in FORMULAS.items()),
    ]
    narrow = [Entry(NARROW_CASE, name, partial(_make_neck, name), baseline=("FPN narrow",)) for name in NARROW_NECKS]
    return [replace(e, work_baseline="FPN" if e.case == CASE else "FPN narrow") for e in (*rows, *narrow)]


class GivenFeatures(Backbone):
    """Stands in the place of the trunk: its feature maps are what the neck is given."""

    def __init__(self, features: Features) -> None:
        super().__init__()
        self._out_features = list(features)
        self._out_feature_channels = {n: channels for n, (channels, _) in features.items()}
        self._out_feature_strides = {n: stride for n, (_, stride) in features.items()}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features


def build_neck(keys: Sequence[Any], features: Features = FEATURES) -> Neck:
    """The neck of the config defaults with these keys and values in a row."""
    cfg = _config()
    cfg.MODEL.FPN.IN_FEATURES = list(features)
    cfg.merge_from_list(list(keys))
    if "bifpn" in cfg.MODEL.BACKBONE.NAME:
        fpn, bifpn = cfg.MODEL.FPN, cfg.MODEL.BIFPN
        return BiFPN(
            GivenFeatures(features), fpn.IN_FEATURES, fpn.OUT_CHANNELS, num_layers=bifpn.NUM_LAYERS, norm=bifpn.NORM
        )
    return build_fpt_backbone(cfg, GivenFeatures(features), None)


def run_neck(neck: nn.Module, features: dict[str, Tensor], *, as_textbook: bool = False) -> list[Tensor]:
    if not isinstance(neck, FPT):
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
    shapes = SMALL_FEATURES if name in NARROW_NECKS else FEATURES
    with torch.device(setting.device):
        if name in PEERS:
            neck = PEERS[name]()
        else:
            neck = build_neck({**NECKS, **NECKS_ON_GPU, **NARROW_NECKS}.get(name, EXACT), shapes)
    padded = _padded(setting)
    neck = setting.laid_out(neck)
    maps = {n: torch.randn(setting.batch, c, *padded.level(stride)) for n, (c, stride) in shapes.items()}
    features = {n: setting.laid_out(x.to(setting.device)).requires_grad_() for n, x in maps.items()}

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            return run_neck(neck, features, as_textbook=name == "FPT textbook")

    return Workload(run, [*features.values(), *neck.parameters()])


def _make_trunk(setting: Setting) -> Workload:
    cfg = _config()
    cfg.MODEL.RESNETS.OUT_FEATURES = list(FEATURES)
    with torch.device(setting.device):
        trunk = setting.laid_out(build_resnet_backbone(cfg, ShapeSpec(channels=3)))
    padded = _padded(setting)
    images = setting.laid_out(torch.randn(setting.batch, 3, padded.height, padded.width, device=setting.device))

    def run(training: bool) -> list[Tensor]:
        with setting.autocast():
            return [out for out in trunk(images).values() if not training or out.requires_grad]

    return Workload(run, list(trunk.parameters()))


def _config() -> CfgNode:
    cfg = get_cfg()
    add_fpt_config(cfg)
    return cfg


def _of_padded(macs: Callable[[Setting], int], setting: Setting) -> int:
    return macs(_padded(setting))


def _padded(setting: Setting) -> Setting:
    height, width = (n * DIVISIBILITY for n in setting.level(DIVISIBILITY))
    return replace(setting, height=height, width=width)
