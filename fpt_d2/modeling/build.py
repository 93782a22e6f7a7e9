"""From a config (``MODEL.FPT``, ``MODEL.UFP``, ``MODEL.BIFPN``) to a backbone, and the check that a model builds."""

from __future__ import annotations

import logging

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    RPN_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
    Backbone,
    build_model,
)
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)
from detectron2.utils.registry import Registry
from torch import nn

from ..core.arguments import check_argument, one_of
from ..errors import ConfigError
from .bifpn import BiFPN
from .branches import build_drop_block, build_transform
from .fpt import FPT, PyramidFPT, pyramid_strides
from .keys import arguments_from, check_norm
from .pyramids import FPT_PYRAMID_REGISTRY
from .roi_heads.pooler import check_roi_heads
from .trunks import build_trunk
from .ufp import UFP, ufp_strides

logger = logging.getLogger(__name__)

# Key of a registered name -> its registry.
REGISTRIES: dict[str, Registry] = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "RPN.HEAD_NAME": RPN_HEAD_REGISTRY,
    "ANCHOR_GENERATOR.NAME": ANCHOR_GENERATOR_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "ROI_KEYPOINT_HEAD.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    "SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}
UNREGISTERED = "PrecomputedProposals"  # a name that Detectron2 knows all the same

# (RES4_DILATION, RES5_DILATION) of a dilated trunk.
DILATIONS = ((2, 4), (1, 2), (1, 1))


@BACKBONE_REGISTRY.register()
def build_resnet_fpt_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet, or what else ``MODEL.TRUNK`` says, and FPT: p2 to p6 (with IN_FEATURES res2 to res5)."""
    if cfg.MODEL.FPT.PYRAMID in BACKBONE_REGISTRY:
        return _build_pyramid_fpt(cfg, input_shape)
    return build_fpt_backbone(cfg, build_trunk(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpt_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ResNet, or what else ``MODEL.TRUNK`` says, and FPT: p3 to p7 (with IN_FEATURES res3 to res5).

    p6 and p7 come from the trunk's coarsest feature, as in Detectron2's RetinaNet.
    """
    if cfg.MODEL.FPT.PYRAMID in BACKBONE_REGISTRY:
        return _build_pyramid_fpt(cfg, input_shape)
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
        ConfigError: a value that is not allowed, naming its key.
    """
    ufp = cfg.MODEL.UFP
    _check_dilated_trunk(cfg)
    check_norm(cfg, "UFP.NORM", "UFP.OUT_CHANNELS")
    bottom_up = build_trunk(cfg, input_shape, "build_resnet_deeplab_backbone")
    with arguments_from("MODEL.UFP"):
        strides = ufp_strides(ufp.KERNELS, bottom_up.output_shape()[ufp.IN_FEATURE].stride)
        check_argument("out_channels", ufp.OUT_CHANNELS, ufp.OUT_CHANNELS > 0, "a positive number")
        return UFP(
            bottom_up,
            ufp.IN_FEATURE,
            ufp.OUT_CHANNELS,
            kernels=ufp.KERNELS,
            transform=build_transform(cfg, strides, ufp.OUT_CHANNELS),
            read_padding=cfg.MODEL.FPT.READ_PADDING,
            zero_init_fuse=cfg.MODEL.FPT.ZERO_INIT_FUSE,
            make_drop_block=build_drop_block(cfg),
            norm=ufp.NORM,
        )


def build_fpt_backbone(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module | None) -> FPT:
    """FPT over any bottom-up backbone.

    Args:
        cfg: with the keys of :func:`fpt_d2.add_fpt_config`.
        bottom_up: its ``output_shape()`` has every one of ``MODEL.FPN.IN_FEATURES``.
        top_block: adds coarser levels, as in Detectron2's FPN, or None.

    Raises:
        ConfigError: a value that is not allowed, naming its key.
    """
    fpn, fpt = cfg.MODEL.FPN, cfg.MODEL.FPT
    _check_in_features(fpn.IN_FEATURES, bottom_up)
    check_norm(cfg, "FPN.NORM", "FPN.OUT_CHANNELS")
    if fpt.PYRAMID not in FPT_PYRAMID_REGISTRY:
        known = one_of(name for name, _ in FPT_PYRAMID_REGISTRY)
        raise ConfigError(f"MODEL.FPT.PYRAMID is {fpt.PYRAMID!r}; allowed: {known}, or the name of a backbone")
    strides = pyramid_strides(bottom_up, fpn.IN_FEATURES)
    return FPT(
        bottom_up,
        fpn.IN_FEATURES,
        fpn.OUT_CHANNELS,
        transform=build_transform(cfg, strides, fpn.OUT_CHANNELS),
        pyramid=FPT_PYRAMID_REGISTRY.get(fpt.PYRAMID)(cfg, strides),
        read_padding=fpt.READ_PADDING,
        zero_init_fuse=fpt.ZERO_INIT_FUSE,
        make_drop_block=build_drop_block(cfg),
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )


def check_model(cfg: CfgNode) -> nn.Module | None:
    """Build the model of ``cfg`` without memory for its weights, for what only that can tell.

    Returns:
        That model; None where it needs weights to be built.

    Raises:
        ConfigError: it cannot be built, for a reason of ours: a place, a feature, a package that is not there. What
            Detectron2 or torch refuse they raise as they do, an AssertionError mostly.
    """
    for key, registry in REGISTRIES.items():
        section, _, leaf = key.rpartition(".")
        name, default = ((c.MODEL[section] if section else c.MODEL)[leaf] for c in (cfg, get_cfg()))
        if name not in registry and name not in (UNREGISTERED, default):
            raise ConfigError(f"MODEL.{key} is {name!r}, which is not registered with Detectron2")
    check_roi_heads(cfg)
    _check_point_rend(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRUNK.PRETRAINED = False
    cfg.MODEL.DEVICE = "meta"
    try:
        with torch.device("meta"):
            model: nn.Module = build_model(cfg)
    except (NotImplementedError, RuntimeError) as error:
        # A model of someone else's may need weights while it is built.
        if "meta" not in str(error):
            raise
        logger.debug("The model cannot be checked before it is built: %s", error)
        return None
    return model


def _check_point_rend(cfg: CfgNode) -> None:
    if "POINT_HEAD" not in cfg.MODEL or cfg.MODEL.ROI_MASK_HEAD.NAME != "PointRendMaskHead":
        return
    classes, all_classes = cfg.MODEL.POINT_HEAD.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    masks = cfg.INPUT.MASK_FORMAT
    with arguments_from("MODEL.POINT_HEAD"):
        check_argument("num_classes", classes, classes == all_classes, f"MODEL.ROI_HEADS.NUM_CLASSES {all_classes}")
    if masks != "bitmask":
        raise ConfigError(
            f"INPUT.MASK_FORMAT is {masks!r}; allowed: 'bitmask' for MODEL.ROI_MASK_HEAD.NAME 'PointRendMaskHead'"
        )


def _build_pyramid_fpt(cfg: CfgNode, input_shape: ShapeSpec) -> PyramidFPT:
    """FPT over the backbone that ``MODEL.FPT.PYRAMID`` names, every map of which is a level.

    Raises:
        ConfigError: a value that is not allowed, naming its key.
    """
    fpn, fpt = cfg.MODEL.FPN, cfg.MODEL.FPT
    build = BACKBONE_REGISTRY.get(fpt.PYRAMID)
    if build in (build_resnet_fpt_backbone, build_retinanet_resnet_fpt_backbone):
        raise ConfigError(f"MODEL.FPT.PYRAMID is {fpt.PYRAMID!r}, which is FPT itself; allowed: another backbone")
    check_norm(cfg, "FPN.NORM", "FPN.OUT_CHANNELS")
    bottom_up = build(cfg, input_shape)
    shapes = bottom_up.output_shape()
    strides = {name: shape.stride for name, shape in shapes.items()}
    widths = {name: shape.channels for name, shape in shapes.items()}
    if len(set(widths.values())) != 1:
        raise ConfigError(f"MODEL.FPT.PYRAMID is {fpt.PYRAMID!r}; allowed: levels of one width, it has {widths}")
    return PyramidFPT(
        bottom_up,
        fpn.OUT_CHANNELS,
        transform=build_transform(cfg, strides, next(iter(shapes.values())).channels),
        read_padding=fpt.READ_PADDING,
        zero_init_fuse=fpt.ZERO_INIT_FUSE,
        make_drop_block=build_drop_block(cfg),
        norm=fpn.NORM,
    )


def _build_bifpn(cfg: CfgNode, input_shape: ShapeSpec, *, num_extra_levels: int) -> BiFPN:
    """
    Raises:
        ConfigError: a value that is not allowed, naming its key.
    """
    fpn, bifpn = cfg.MODEL.FPN, cfg.MODEL.BIFPN
    check_norm(cfg, "BIFPN.NORM", "FPN.OUT_CHANNELS")
    check_norm(cfg, "FPN.NORM", "FPN.OUT_CHANNELS")
    bottom_up = build_trunk(cfg, input_shape)
    _check_in_features(fpn.IN_FEATURES, bottom_up)
    with arguments_from("MODEL.BIFPN"):
        return BiFPN(
            bottom_up,
            fpn.IN_FEATURES,
            fpn.OUT_CHANNELS,
            num_layers=bifpn.NUM_LAYERS,
            num_extra_levels=num_extra_levels,
            norm=bifpn.NORM,
            lateral_norm=fpn.NORM,
        )


def _check_dilated_trunk(cfg: CfgNode) -> None:
    """The values that Detectron2's DeepLab trunk and UFP need."""
    resnets, feature = cfg.MODEL.RESNETS, cfg.MODEL.UFP.IN_FEATURE
    dilations = (resnets.RES4_DILATION, resnets.RES5_DILATION)
    with arguments_from("MODEL.RESNETS", dilations="(RES4_DILATION, RES5_DILATION)"):
        check_argument("depth", resnets.DEPTH, resnets.DEPTH in (50, 101, 152), "50, 101, 152")
        strides = "(2, 4) for stride 8, (1, 2) for stride 16, (1, 1) for stride 32"
        check_argument("dilations", dilations, dilations in DILATIONS, strides)
        check_argument("stem_type", resnets.STEM_TYPE, resnets.STEM_TYPE in ("basic", "deeplab"), "'basic', 'deeplab'")
    if feature not in resnets.OUT_FEATURES:
        raise ConfigError(
            f"MODEL.UFP.IN_FEATURE is {feature!r}; allowed: one of MODEL.RESNETS.OUT_FEATURES = {resnets.OUT_FEATURES}"
        )


def _check_in_features(in_features: list[str], bottom_up: Backbone) -> None:
    available = {name: shape.stride for name, shape in bottom_up.output_shape().items()}
    strides = [available.get(f, 0) if isinstance(f, str) else 0 for f in in_features]
    if not all(strides) or strides != [strides[0] << i for i in range(len(strides))] or not strides:
        raise ConfigError(
            f"MODEL.FPN.IN_FEATURES is {list(in_features)}; allowed: a contiguous part of what the bottom-up backbone "
            f"returns, {list(available)} (of a ResNet: MODEL.RESNETS.OUT_FEATURES), each of twice the stride before it"
        )
