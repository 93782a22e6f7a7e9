"""Source pyramids, which the pyramid transform reads, and their registry.

One of one's own is registered under the name that ``MODEL.FPT.PYRAMID`` then has; ``docs/extending.md`` has an example.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import Tensor, nn

FPT_PYRAMID_REGISTRY = Registry("FPT_PYRAMID")
FPT_PYRAMID_REGISTRY.__doc__ = """
Registry of source pyramids, by the name in ``MODEL.FPT.PYRAMID``.

A registered object is called as ``obj(cfg, strides)``, the strides by level, fine to coarse. It returns a module from
the laterals, (B, C, H_n, W_n) by level, to maps of the same levels and sizes.
"""


class Lateral(nn.Module):
    """The laterals as they are, without a path between them (the pyramid that the authors' code reads)."""

    def forward(self, laterals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From (B, C, H_n, W_n) by level, fine to coarse, to the same."""
        return dict(laterals)


class TopDown(nn.Module):
    """The top-down path of FPN: every level and the sum of all coarser ones (Lin et al., CVPR 2017)."""

    def __init__(self, fuse_type: str = "sum") -> None:
        """
        Args:
            fuse_type: "sum", or "avg" for half of each sum, as in Detectron2's FPN.
        """
        super().__init__()
        self.fuse_type = fuse_type

    def forward(self, laterals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From (B, C, H_n, W_n) by level, fine to coarse, to the same."""
        maps: dict[str, Tensor] = {}
        above = None
        for level in reversed(list(laterals)):
            x = laterals[level]
            if above is not None:
                x = x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
                x = x / 2 if self.fuse_type == "avg" else x
            maps[level] = above = x
        return {level: maps[level] for level in laterals}


class BottomUp(TopDown):
    """A bottom-up path over the top-down one, as in PANet without its ReLUs: ``x_n + conv(x_{n-1})``, of stride 2."""

    def __init__(self, strides: Mapping[str, int], channels: int, *, fuse_type: str = "sum", zero_init: bool) -> None:
        """
        Args:
            strides: of the levels, fine to coarse.
            channels: of each.
            fuse_type: see :class:`TopDown`.
            zero_init: start the path at zero.
        """
        super().__init__(fuse_type)
        self.down = nn.ModuleDict(
            {n: nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False) for n in list(strides)[1:]}
        )
        for conv in self.down.values():
            if zero_init:
                nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
            else:
                nn.init.kaiming_uniform_(conv.weight, a=1)  # type: ignore[arg-type]

    def forward(self, laterals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = super().forward(laterals)
        for finer, level in zip(list(maps), list(maps)[1:]):
            below, x = self.down[level](maps[finer]), maps[level]
            if below.shape[-2:] != x.shape[-2:]:  # a trunk that rounds odd sizes down
                below = F.interpolate(below, size=x.shape[-2:], mode="bilinear", align_corners=False)
            maps[level] = x + below
        return maps


@FPT_PYRAMID_REGISTRY.register()
def lateral(cfg: CfgNode, strides: Mapping[str, int]) -> nn.Module:
    return Lateral()


@FPT_PYRAMID_REGISTRY.register()
def fpn(cfg: CfgNode, strides: Mapping[str, int]) -> nn.Module:
    return TopDown(cfg.MODEL.FPN.FUSE_TYPE)


@FPT_PYRAMID_REGISTRY.register()
def bfp(cfg: CfgNode, strides: Mapping[str, int]) -> nn.Module:
    fpn, zero_init = cfg.MODEL.FPN, cfg.MODEL.FPT.ZERO_INIT_FUSE
    return BottomUp(strides, fpn.OUT_CHANNELS, fuse_type=fpn.FUSE_TYPE, zero_init=zero_init)
