"""What gathers context over one map: pyramid pooling and object context. (ASPP is Detectron2's.)"""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn

from ...core import Level, SelfTransformer


def conv_norm_relu(in_channels: int, out_channels: int, kernel: int, norm: str) -> Conv2d:
    """A convolution that keeps the size, its normalisation (Detectron2's ``get_norm``) and a ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel,
        padding=kernel // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv


class PyramidPooling(nn.Module):
    """The map beside its averages over coarse grids, fused (PPM; Zhao et al., PSPNet, CVPR 2017)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bins: Sequence[int] = (1, 2, 3, 6), norm: str = ""
    ) -> None:
        """
        Args:
            bins: side of each grid. Each average keeps an equal share of ``in_channels``.
            norm: of every convolution but that of the 1 x 1 grid, where a batch of one image would leave one value a
                channel to normalise over.
        """
        super().__init__()
        self.bins = tuple(bins)
        width = max(1, in_channels // len(self.bins))
        self.reduce = nn.ModuleList(
            conv_norm_relu(in_channels, width, 1, norm if side > 1 else "") for side in self.bins
        )
        self.project = conv_norm_relu(in_channels + width * len(self.bins), out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        maps = [x]
        for side, conv in zip(self.bins, self.reduce):
            pooled = conv(F.adaptive_avg_pool2d(x, side))
            maps.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False))
        out: Tensor = self.project(torch.cat(maps, dim=1))
        return out


class ObjectContext(nn.Module):
    """Each position beside what it attends to in the whole map (OC; Yuan and Wang, OCNet, 2018), in linear memory."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "", impl: str = "auto") -> None:
        """
        Args:
            out_channels: also the width of the attention.
            norm: of the convolutions before and after it.
            impl: see :func:`...core.mixture_attention`.
        """
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, out_channels, 3, norm)
        self.attention = SelfTransformer(out_channels, num_parts=1, impl=impl)
        self.project = conv_norm_relu(2 * out_channels, out_channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H, W)."""
        x = self.reduce(x)
        level = Level(x)
        out: Tensor = self.project(torch.cat((x, self.attention(level, level)), dim=1))
        return out
