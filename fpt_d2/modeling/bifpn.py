"""BiFPN (Tan et al., EfficientDet, CVPR 2020), a peer of FPT: weighted fusion, from coarse to fine and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, DepthwiseSeparableConv2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..core.arguments import check_argument
from .fpt import pyramid_strides


class WeightedFusion(nn.Module):
    """Maps of one size as one: their weighted mean ("fast normalized fusion"), swish, a separable 3x3 convolution."""

    def __init__(self, num_inputs: int, channels: int, *, norm: str = "GN", eps: float = 1e-4) -> None:
        """
        Args:
            num_inputs: maps to fuse; they start with equal weights.
            channels: of each and of the output.
            norm: of the output, as in Detectron2's ``get_norm``.
            eps: keeps the mean from dividing by zero; the paper's.
        """
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_inputs))
        self.conv = DepthwiseSeparableConv2d(channels, channels, norm2=norm)

    def normalized_weights(self) -> Tensor:
        """The weights of the inputs: not negative, and of a sum of just below one."""
        weight = F.relu(self.weight)
        return weight / (weight.sum() + self.eps)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """``num_inputs`` maps (B, C, H, W) -> (B, C, H, W)."""
        fused = sum(w * x for w, x in zip(self.normalized_weights(), inputs))
        return self.conv(F.silu(fused))  # type: ignore[no-any-return]


class BiFPNLayer(nn.Module):
    """A path from coarse to fine, then one from fine to coarse, which reads the layer's input once more."""

    def __init__(self, levels: Sequence[str], channels: int, *, norm: str = "GN") -> None:
        """
        Args:
            levels: their names, fine to coarse. channels: of each. norm: see :class:`WeightedFusion`.
        """
        super().__init__()
        self.levels = tuple(levels)
        inner = self.levels[1:-1]
        self.top_down = nn.ModuleDict({n: WeightedFusion(2, channels, norm=norm) for n in self.levels[:-1]})
        self.bottom_up = nn.ModuleDict(
            {n: WeightedFusion(3 if n in inner else 2, channels, norm=norm) for n in self.levels[1:]}
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """From (B, C, H_n, W_n) by level to the same."""
        coarsest = self.levels[-1]
        down = {coarsest: features[coarsest]}
        for level, coarser in zip(reversed(self.levels[:-1]), reversed(self.levels[1:])):
            x = features[level]
            above = F.interpolate(down[coarser], size=x.shape[-2:], mode="nearest")
            down[level] = self.top_down[level]((x, above))
        out = {self.levels[0]: down[self.levels[0]]}
        for finer, level in zip(self.levels, self.levels[1:]):
            x = features[level]
            below = _halve(out[finer], x.shape[-2:])
            out[level] = self.bottom_up[level]((x, below) if level == coarsest else (x, down[level], below))
        return out


class BiFPN(Backbone):
    """
    This module implements BiFPN (Tan et al., EfficientDet) over any bottom-up backbone.

    The laterals have the names that they have in Detectron2's FPN, and get its weights from an FPN checkpoint. Levels
    coarser than the trunk's are max-pooled from the one before.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        num_layers: int = 3,
        num_extra_levels: int = 1,
        norm: str = "GN",
        lateral_norm: str = "",
    ) -> None:
        """
        Args:
            bottom_up: its ``output_shape()`` has every one of ``in_features``.
            in_features: fine to coarse, each of twice the stride of the one before.
            out_channels: of every level.
            num_layers: how often the two-way pyramid is repeated.
            num_extra_levels: 1 for p6 over p5, as R-CNN needs; 2 for RetinaNet.
            norm: of the fusing convolutions; lateral_norm: of the laterals, "" as in the zoo's FPN; both as in
                Detectron2's ``get_norm``.

        Raises:
            ValueError: strides that do not double.
        """
        super().__init__()
        check_argument("num_layers", num_layers, num_layers > 0, "1 or more")
        strides = pyramid_strides(bottom_up, in_features)
        if any(b != 2 * a for a, b in zip(list(strides.values()), list(strides.values())[1:])):
            raise ValueError(f"in_features {list(in_features)} have strides {list(strides.values())}; they must double")
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        for feature, level in zip(in_features, strides):
            lateral = Conv2d(
                bottom_up.output_shape()[feature].channels,
                out_channels,
                kernel_size=1,
                bias=not lateral_norm,
                norm=get_norm(lateral_norm, out_channels),
            )
            weight_init.c2_xavier_fill(lateral)
            self.add_module(f"fpn_lateral{level[1:]}", lateral)
        self._size_divisibility = max(strides.values())
        for _ in range(num_extra_levels):
            stride = 2 * max(strides.values())
            strides[f"p{stride.bit_length() - 1}"] = stride
        self._strides, self.out_channels = strides, out_channels
        self.bifpn = nn.Sequential(*(BiFPNLayer(list(strides), out_channels, norm=norm) for _ in range(num_layers)))

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images.

        Returns:
            From level name to (B, out_channels, H / stride, W / stride), fine to coarse: ``{"p2": ..., "p6": ...}``.
        """
        trunk = self.bottom_up(x)
        maps: list[Tensor] = []
        for level, feature in zip(self._strides, self.in_features):
            maps.append(getattr(self, f"fpn_lateral{level[1:]}")(trunk[feature]))
        while len(maps) < len(self._strides):
            maps.append(_halve(maps[-1]))
        outputs: dict[str, Tensor] = self.bifpn(dict(zip(self._strides, maps)))
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {name: ShapeSpec(channels=self.out_channels, stride=stride) for name, stride in self._strides.items()}


def _halve(x: Tensor, size: Sequence[int] = ()) -> Tensor:
    """Max-pooled to half, or to a given size near it (of a trunk that rounds odd sizes down)."""
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    return x if not size or x.shape[-2:] == tuple(size) else F.interpolate(x, size=tuple(size), mode="nearest")
