"""From a config (``MODEL.FPT``, ``MODEL.UFP``, ``MODEL.BIFPN``) to a backbone, and the check that a model builds."""

import logging
import re
from functools import partial
from typing import Mapping, Optional

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ..config_check import check_bifpn_config, check_fpt_config, check_ufp_config
from ..core import DropBlock, PyramidTransform
from .bifpn import BiFPN
from .fpt import FPT, pyramid_strides
from .trunks import build_trunk
from .ufp import UFP, ufp_strides

logger = logging.getLogger(__name__)

# How Detectron2 says that a registry lacks a name, and the keys that the names of each come from.
_UNREGISTERED = re.compile("No object named '(.*)' found in '(.*)' registry")
_REGISTRY_KEYS = {
    "META_ARCH": "MODEL.META_ARCHITECTURE",
    "BACKBONE": "MODEL.BACKBONE.NAME",
    "PROPOSAL_GENERATOR": "MODEL.PROPOSAL_GENERATOR.NAME",
    "RPN_HEAD": "MODEL.RPN.HEAD_NAME",
    "ANCHOR_GENERATOR": "MODEL.ANCHOR_GENERATOR.NAME",
    "ROI_HEADS": "MODEL.ROI_HEADS.NAME",
    "ROI_BOX_HEAD": "MODEL.ROI_BOX_HEAD.NAME",
    "ROI_MASK_HEAD": "MODEL.ROI_MASK_HEAD.NAME",
    "ROI_KEYPOINT_HEAD": "MODEL.ROI_KEYPOINT_HEAD.NAME",
    "SEM_SEG_HEADS": "MODEL.SEM_SEG_HEAD.NAME",
}


@BACKBONE_REGISTRY.register()
def build_resnet_fpt_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPT:
    """ResNet, or what else ``MODEL.TRUNK`` says, and FPT: p2 to p6 (with IN_FEATURES res2 to res5)."""
    return build_fpt_backbone(cfg, build_trunk(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpt_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPT:
    """ResNet, or what else ``MODEL.TRUNK`` says, and FPT: p3 to p7 (with IN_FEATURES res3 to res5).

    p6 and p7 come from the trunk's coarsest feature, as in Detectron2's RetinaNet.
    """
    bottom_up = build_trunk(cfg, input_shape)
    _check_in_features(cfg.MODEL.FPN.IN_FEATURES, bottom_up)
    coarsest = cfg.MODEL.FPN.IN_FEATURES[-1]
    channels = bottom_up.output_shape()[coarsest].channels
    return build_fpt_backbone(cfg, bottom_up, LastLevelP6P7(channels, cfg.MODEL.FPN.OUT_CHANNELS, coarsest))


@BACKBONE_REGISTRY.register()
def build_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BiFPN:
    """ResNet, or what else ``MODEL.TRUNK`` says, and BiFPN: p2 to p6 (with IN_FEATURES res2 to res5)."""
    return _build_bifpn(cfg, input_shape, num_extra_levels=1)


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BiFPN:
    """ResNet, or what else ``MODEL.TRUNK`` says, and BiFPN: p3 to p7 (with IN_FEATURES res3 to res5)."""
    return _build_bifpn(cfg, input_shape, num_extra_levels=2)


@BACKBONE_REGISTRY.register()
def build_resnet_ufp_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> UFP:
    """Dilated ResNet and UFP, u1 to u31 of one stride, with FPT where ``MODEL.FPT.BRANCHES`` has any.

    Raises:
        ValueError: a config value that is not allowed, naming its key.
    """
    check_fpt_config(cfg)
    check_ufp_config(cfg)
    ufp = cfg.MODEL.UFP
    bottom_up = build_trunk(cfg, input_shape, "build_resnet_deeplab_backbone")
    strides = ufp_strides(ufp.KERNELS, bottom_up.output_shape()[ufp.IN_FEATURE].stride)
    return UFP(
        bottom_up,
        ufp.IN_FEATURE,
        ufp.OUT_CHANNELS,
        kernels=ufp.KERNELS,
        transform=_build_transform(cfg, strides, ufp.OUT_CHANNELS),
        zero_init_fuse=cfg.MODEL.FPT.ZERO_INIT_FUSE,
        drop_block=_build_drop_block(cfg),
        norm=ufp.NORM,
    )


def build_fpt_backbone(cfg: CfgNode, bottom_up: Backbone, top_block: Optional[nn.Module]) -> FPT:
    """FPT over any bottom-up backbone.

    Args:
        cfg: with the keys of :func:`fpt_d2.add_fpt_config`.
        bottom_up: its ``output_shape()`` has every one of ``MODEL.FPN.IN_FEATURES``.
        top_block: adds coarser levels, as in Detectron2's FPN, or None.

    Raises:
        ValueError: a config value that is not allowed, naming its key.
    """
    check_fpt_config(cfg)
    fpn, fpt = cfg.MODEL.FPN, cfg.MODEL.FPT
    _check_in_features(fpn.IN_FEATURES, bottom_up)
    return FPT(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        transform=_build_transform(cfg, pyramid_strides(bottom_up, fpn.IN_FEATURES), fpn.OUT_CHANNELS),
        pyramid=fpt.PYRAMID,
        zero_init_fuse=fpt.ZERO_INIT_FUSE,
        drop_block=_build_drop_block(cfg),
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


def check_model(cfg: CfgNode) -> None:
    """Build the model of ``cfg`` without memory for its weights, for what only that can tell.

    Raises:
        ValueError: it cannot be built, for a reason of ours (a place, a feature, a package that is not there) or of
            Detectron2's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRUNK.PRETRAINED = False
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            build_model(cfg)
    except (AssertionError, KeyError) as error:  # how Detectron2 refuses
        raise ValueError(_explain(cfg, error)) from error
    except (NotImplementedError, RuntimeError) as error:
        # A model of someone else's may need weights while it is built.
        logger.debug("The model cannot be checked before it is built: %s", error)


def _explain(cfg: CfgNode, error: Exception) -> str:
    if unknown := _UNREGISTERED.search(str(error)):
        name, registry = unknown.groups()
        return f"{_REGISTRY_KEYS.get(registry, registry)} is {name!r}, which is not registered with Detectron2"
    return (
        f"The model ({cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}) cannot be built from this config: "
        f"{type(error).__name__} {error}"
    )


def _build_bifpn(cfg: CfgNode, input_shape: ShapeSpec, *, num_extra_levels: int) -> BiFPN:
    """
    Raises:
        ValueError: a config value that is not allowed, naming its key.
    """
    check_bifpn_config(cfg)
    fpn, bifpn = cfg.MODEL.FPN, cfg.MODEL.BIFPN
    bottom_up = build_trunk(cfg, input_shape)
    _check_in_features(fpn.IN_FEATURES, bottom_up)
    return BiFPN(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        num_layers=bifpn.NUM_LAYERS,
        num_extra_levels=num_extra_levels,
        norm=bifpn.NORM,
        lateral_norm=fpn.NORM,
    )


def _build_transform(cfg: CfgNode, strides: Mapping[str, int], in_channels: int) -> Optional[PyramidTransform]:
    """The transform over levels of these strides and this width; None where no branch is on."""
    fpt = cfg.MODEL.FPT
    if not fpt.BRANCHES:
        return None
    return PyramidTransform(
        strides,
        in_channels,
        channels=fpt.BRANCH_CHANNELS,
        branches=fpt.BRANCHES,
        st_num_parts=fpt.ST_NUM_PARTS,
        gt_num_parts=fpt.GT_NUM_PARTS,
        gt_similarity=fpt.GT_SIMILARITY,
        gt_square_size=fpt.GT_SQUARE_SIZE,
        rt_final_conv=fpt.RT_FINAL_CONV,
        kv_stride=fpt.KV_STRIDE,
        max_kv_tokens=fpt.MAX_KV_TOKENS,
        norm=partial(get_norm, fpt.NORM) if fpt.NORM else None,
        impl=fpt.ATTENTION_IMPL,
        use_checkpoint=fpt.CHECKPOINT,
    )


def _build_drop_block(cfg: CfgNode) -> Optional[DropBlock]:
    fpt = cfg.MODEL.FPT
    return DropBlock(fpt.DROP_BLOCK_PROB, fpt.DROP_BLOCK_SIZE) if fpt.DROP_BLOCK_PROB > 0 else None


def _check_in_features(in_features: list[str], bottom_up: Backbone) -> None:
    available = list(bottom_up.output_shape())
    if not in_features or any(f not in available for f in in_features):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {list(in_features)}; allowed: a contiguous part of what the bottom-up backbone "
            f"returns, {available} (of a ResNet: MODEL.RESNETS.OUT_FEATURES)"
        )
