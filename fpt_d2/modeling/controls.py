"""Branches without attention, the control of an ablation, by their names in ``MODEL.FPT.BRANCHES``.

``["st_conv", "gt_conv", "rt"]`` is ``["st", "gt", "rt"]`` with convolutions in the place of attention;
``["st_mean", "gt_mean", "rt"]`` reads the mean of a level, as attention does that tells no position from another.
"""

from __future__ import annotations

from detectron2.config import CfgNode
from torch import nn

from ..core.control import WithoutAttention
from .branches import FPT_BRANCH_REGISTRY, reads
from .keys import norm_factory


@FPT_BRANCH_REGISTRY.register()
@reads("own")
def st_conv(cfg: CfgNode, channels: int) -> nn.Module:
    """In the place of the self-transformer: reads around each position."""
    return WithoutAttention(channels, read="place", norm=norm_factory(cfg.MODEL.FPT.NORM))


@FPT_BRANCH_REGISTRY.register()
@reads("coarser")
def gt_conv(cfg: CfgNode, channels: int) -> nn.Module:
    """In the place of the grounding transformer: reads around the same place of the coarser level."""
    return WithoutAttention(channels, read="place", norm=norm_factory(cfg.MODEL.FPT.NORM))


@FPT_BRANCH_REGISTRY.register()
@reads("own")
def st_mean(cfg: CfgNode, channels: int) -> nn.Module:
    """In the place of the self-transformer: reads the mean of the level."""
    return WithoutAttention(channels, read="mean", norm=norm_factory(cfg.MODEL.FPT.NORM))


@FPT_BRANCH_REGISTRY.register()
@reads("coarser")
def gt_mean(cfg: CfgNode, channels: int) -> nn.Module:
    """In the place of the grounding transformer: reads the mean of the coarser level."""
    return WithoutAttention(channels, read="mean", norm=norm_factory(cfg.MODEL.FPT.NORM))
