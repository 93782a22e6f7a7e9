"""From a config to a backbone: the only reader of ``MODEL.FPT``, ``MODEL.UFP`` and ``MODEL.BIFPN``."""

from functools import partial
from typing import Mapping, Optional

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

from ..config_check import check_bifpn_config, check_fpt_config, check_ufp_config
from ..core import DropBlock, PyramidTransform
from .bifpn import BiFPN
from .fpt import FPT, pyramid_strides
from .trunks import build_trunk
from .ufp import UFP, ufp_strides


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


def check_backbone(cfg: CfgNode) -> None:
    """Build the backbone of ``cfg`` without memory for its weights, for what only that can tell.

    Raises:
        ValueError: it cannot be built, for a reason of ours (a place, a feature, a package that is not there) or of
            Detectron2's.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRUNK.PRETRAINED = False
    try:
        with torch.device("meta"):
            build_backbone(cfg)
    except (AssertionError, KeyError) as error:  # how Detectron2 refuses
        raise ValueError(
            f"MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} cannot be built from this config: "
            f"{type(error).__name__} {error}"
        ) from error


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
