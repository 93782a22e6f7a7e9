"""From a config (``MODEL.SEM_SEG_HEAD``) to a head for semantic segmentation."""

from __future__ import annotations

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ASPP, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ...core.arguments import check_argument, one_of
from ...errors import ConfigError
from ..keys import arguments_from, check_norm
from .context import ObjectContext, PyramidPooling, conv_norm_relu
from .head import DROPOUT, PyramidSegHead, aux_classifier

Shapes = dict[str, ShapeSpec]

LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")


@SEM_SEG_HEADS_REGISTRY.register()
def build_ufp_head(cfg: CfgNode, input_shape: Shapes) -> PyramidSegHead:
    """One 3x3 convolution over the levels: the plain head of UFP and of FPT over it."""
    head, levels, width = _inputs(cfg, input_shape)
    return _build_head(cfg, input_shape, levels, conv_norm_relu(width, head.CONVS_DIM, 3, head.NORM))


@SEM_SEG_HEADS_REGISTRY.register()
def build_ppm_head(cfg: CfgNode, input_shape: Shapes) -> PyramidSegHead:
    """Pyramid pooling over the levels."""
    head, levels, width = _inputs(cfg, input_shape)
    context = PyramidPooling(width, head.CONVS_DIM, bins=head.PPM_BINS, norm=head.NORM)
    return _build_head(cfg, input_shape, levels, context)


@SEM_SEG_HEADS_REGISTRY.register()
def build_aspp_head(cfg: CfgNode, input_shape: Shapes) -> PyramidSegHead:
    """Detectron2's ASPP over the levels."""
    head, levels, width = _inputs(cfg, input_shape)
    context = ASPP(
        width,
        head.CONVS_DIM,
        head.ASPP_DILATIONS,
        norm=head.NORM,
        activation=F.relu,
        use_depthwise_separable_conv=head.USE_DEPTHWISE_SEPARABLE_CONV,
    )
    return _build_head(cfg, input_shape, levels, context, dropout=head.ASPP_DROPOUT)


@SEM_SEG_HEADS_REGISTRY.register()
def build_oc_head(cfg: CfgNode, input_shape: Shapes) -> PyramidSegHead:
    """Object context, attention within the whole map, over the levels."""
    head, levels, width = _inputs(cfg, input_shape)
    with arguments_from("MODEL.FPT", impl="ATTENTION_IMPL"):
        context = ObjectContext(width, head.CONVS_DIM, norm=head.NORM, impl=cfg.MODEL.FPT.ATTENTION_IMPL)
    return _build_head(cfg, input_shape, levels, context)


def _inputs(cfg: CfgNode, input_shape: Shapes) -> tuple[CfgNode, Shapes, int]:
    """The head's part of the config, its levels, and the sum of their channels."""
    head, given = cfg.MODEL.SEM_SEG_HEAD, list(input_shape)
    _check_values(head)
    if not head.IN_FEATURES or not set(head.IN_FEATURES) <= set(given):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}; allowed: any of what the backbone "
            f"returns, {given}"
        )
    if head.AUX_FEATURE not in ("", *given):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.AUX_FEATURE is {head.AUX_FEATURE!r}; allowed: '' (off) or one of what the backbone "
            f"returns, {given} (MODEL.RESNETS.OUT_FEATURES adds the trunk's)"
        )
    check_norm(cfg, "SEM_SEG_HEAD.NORM", "SEM_SEG_HEAD.CONVS_DIM", share=2 if head.AUX_FEATURE else 1)
    levels = {f: input_shape[f] for f in head.IN_FEATURES}
    return head, levels, sum(shape.channels for shape in levels.values())


def _check_values(head: CfgNode) -> None:
    dilations = len(head.ASPP_DILATIONS) == 3 and min(head.ASPP_DILATIONS) > 0
    with arguments_from("MODEL.SEM_SEG_HEAD"):
        check_argument("loss_type", head.LOSS_TYPE, head.LOSS_TYPE in LOSS_TYPES, one_of(LOSS_TYPES))
        check_argument("loss_top_k", head.LOSS_TOP_K, 0 < head.LOSS_TOP_K <= 1, "above 0, up to 1")
        check_argument("aux_loss_weight", head.AUX_LOSS_WEIGHT, head.AUX_LOSS_WEIGHT >= 0, "0 or more")
        check_argument("ppm_bins", head.PPM_BINS, min(head.PPM_BINS, default=0) > 0, "positive numbers")
        check_argument("aspp_dilations", head.ASPP_DILATIONS, dilations, "three positive numbers")
        check_argument("aspp_dropout", head.ASPP_DROPOUT, 0 <= head.ASPP_DROPOUT < 1, "0 (off) up to below 1")


def _build_head(
    cfg: CfgNode, input_shape: Shapes, levels: Shapes, context: nn.Module, *, dropout: float = DROPOUT
) -> PyramidSegHead:
    head, aux = cfg.MODEL.SEM_SEG_HEAD, None
    if head.AUX_FEATURE:
        channels = input_shape[head.AUX_FEATURE].channels
        aux = (head.AUX_FEATURE, aux_classifier(channels, head.CONVS_DIM // 2, head.NUM_CLASSES, norm=head.NORM))
    with arguments_from("MODEL.SEM_SEG_HEAD", input_shape="IN_FEATURES"):
        return PyramidSegHead(
            levels,
            context,
            head.CONVS_DIM,
            num_classes=head.NUM_CLASSES,
            dropout=dropout,
            ignore_value=head.IGNORE_VALUE,
            loss_weight=head.LOSS_WEIGHT,
            loss_top_k=head.LOSS_TOP_K if head.LOSS_TYPE == "hard_pixel_mining" else 1.0,
            aux=aux,
            aux_loss_weight=head.AUX_LOSS_WEIGHT,
        )
