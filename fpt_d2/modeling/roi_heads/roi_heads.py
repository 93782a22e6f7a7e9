"""Detectron2's RoI heads with every RoI pooled from every level."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, CascadeROIHeads, StandardROIHeads

from .pooler import AdaptivePooler, check_roi_heads


class _AdaptivePooling:
    """Replaces the poolers of the box and the mask head."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        check_roi_heads(cfg)
        options: dict[str, Any] = super()._init_box_head(cfg, input_shape)  # type: ignore[misc]
        return {**options, "box_pooler": _pooler(cfg, cfg.MODEL.ROI_BOX_HEAD, input_shape)}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        options: dict[str, Any] = super()._init_mask_head(cfg, input_shape)  # type: ignore[misc]
        if options.get("mask_pooler") is None:  # no masks, or a head that takes the levels themselves
            return options
        return {**options, "mask_pooler": _pooler(cfg, cfg.MODEL.ROI_MASK_HEAD, input_shape)}


@ROI_HEADS_REGISTRY.register()
class AdaptiveROIHeads(_AdaptivePooling, StandardROIHeads):
    """``StandardROIHeads`` with adaptive feature pooling (PANet) for boxes and masks; its heads must expect that."""


@ROI_HEADS_REGISTRY.register()
class AdaptiveCascadeROIHeads(_AdaptivePooling, CascadeROIHeads):
    """``CascadeROIHeads`` with adaptive feature pooling (PANet) for boxes and masks; its heads must expect that."""


def _pooler(cfg: CfgNode, head: CfgNode, input_shape: dict[str, ShapeSpec]) -> AdaptivePooler:
    scales = tuple(1.0 / input_shape[name].stride for name in cfg.MODEL.ROI_HEADS.IN_FEATURES)
    return AdaptivePooler(head.POOLER_RESOLUTION, scales, head.POOLER_SAMPLING_RATIO, head.POOLER_TYPE)
