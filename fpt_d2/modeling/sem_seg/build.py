"""From a config (``MODEL.SEM_SEG_HEAD``) to a head for semantic segmentation."""

from typing import Dict, Tuple

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ASPP, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn

from ...config_check import check_sem_seg_head_config
from .context import ObjectContext, PyramidPooling, conv_norm_relu
from .head import DROPOUT, PyramidSegHead, aux_classifier

Shapes = Dict[str, ShapeSpec]


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
    context = ObjectContext(width, head.CONVS_DIM, norm=head.NORM, impl=cfg.MODEL.FPT.ATTENTION_IMPL)
    return _build_head(cfg, input_shape, levels, context)


def _inputs(cfg: CfgNode, input_shape: Shapes) -> Tuple[CfgNode, Shapes, int]:
    """The head's part of the config, its levels, and the sum of their channels."""
    check_sem_seg_head_config(cfg)
    head, given = cfg.MODEL.SEM_SEG_HEAD, list(input_shape)
    if not head.IN_FEATURES or not set(head.IN_FEATURES) <= set(given):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES is {list(head.IN_FEATURES)}; allowed: any of what the backbone "
            f"returns, {given}"
        )
    if head.AUX_FEATURE not in ("", *given):
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.AUX_FEATURE is {head.AUX_FEATURE!r}; allowed: '' (off) or one of what the backbone "
            f"returns, {given} (MODEL.RESNETS.OUT_FEATURES adds the trunk's)"
        )
    levels = {f: input_shape[f] for f in head.IN_FEATURES}
    return head, levels, sum(shape.channels for shape in levels.values())


def _build_head(
    cfg: CfgNode, input_shape: Shapes, levels: Shapes, context: nn.Module, *, dropout: float = DROPOUT
) -> PyramidSegHead:
    head, aux = cfg.MODEL.SEM_SEG_HEAD, None
    if head.AUX_FEATURE:
        channels = input_shape[head.AUX_FEATURE].channels
        aux = (head.AUX_FEATURE, aux_classifier(channels, head.CONVS_DIM // 2, head.NUM_CLASSES, norm=head.NORM))
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
