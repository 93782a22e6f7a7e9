"""The equal-sized pyramid of the FPT paper's segmentation half, as a Detectron2 backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import Backbone
from torch import Tensor, nn

from ..core import Level, PyramidTransform, ValidSizes
from ..core.arguments import check_argument
from ..core.fusion import fuse, make_fusions
from .fpt import check_levels
from .keys import norm_factory


def ufp_strides(kernels: Sequence[int], stride: int) -> dict[str, int]:
    """Names (``u7`` is the level of kernel 7) and strides, all equal, of the levels of :class:`UFP`.

    Raises:
        ValueError: kernels that are not odd or do not ascend.
    """
    ascending = bool(kernels) and list(kernels) == sorted(set(kernels)) and kernels[0] > 0
    odd = all(kernel % 2 == 1 for kernel in kernels)
    check_argument("kernels", list(kernels), ascending and odd, "odd, ascending numbers")
    return {f"u{kernel}": stride for kernel in kernels}


class _LineConv(Conv2d):
    """A convolution along one axis that keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: tuple[int, int]) -> None:
        height, width = kernel_size
        super().__init__(in_channels, out_channels, kernel_size, padding=(height // 2, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)  # type: ignore[no-any-return]
        # The gradient of a 31x1 kernel over 10 to 16 rows writes beyond its memory in PyTorch 2.14 on the CPU (oneDNN)
        # when the padding is the convolution's own.
        height, width = self.padding
        return F.conv2d(F.pad(x, (width, width, height, height)), self.weight, self.bias)


class GlobalConv(nn.Module):
    """
    A convolution with a large kernel as the sum of its two separable forms, k x 1 then 1 x k and the other way round
    (Peng et al., Large Kernel Matters, CVPR 2017). Kernel 1 is a plain 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, norm: str = "") -> None:
        """
        Args:
            kernel: odd side of the square that an output sees.
            norm: of the sum, as in Detectron2's ``get_norm``.

        Raises:
            ValueError: even or non-positive kernel.
        """
        super().__init__()
        check_argument("kernel", kernel, kernel > 0 and kernel % 2 == 1, "an odd number above 0")
        tall, wide = (kernel, 1), (1, kernel)
        paths = [(tall, wide), (wide, tall)] if kernel > 1 else [((1, 1),)]
        self.paths = nn.ModuleList(_path(in_channels, out_channels, sides) for sides in paths)
        self.norm = get_norm(norm, out_channels) or nn.Identity()

    def forward(self, x: Tensor, level: Level | None = None) -> Tensor:
        """(B, C_in, H, W), of a level where that has padding to be left out -> (B, C_out, H, W)."""
        level = Level(x) if level is None else level
        sums = []
        for path in self.paths:
            out = x
            for conv in path.children():
                out = conv(level.without_padding(out))  # in which the convolution before leaves its bias
            sums.append(out)
        return level.normalize(self.norm, sum(sums[1:], sums[0]))


class UFP(Backbone):
    """
    This module implements the pyramid of equal-sized levels of the FPT paper (Zhang et al., ECCV 2020; "unscathed
    feature pyramid"), with or without the pyramid transform over it.

    Global convolutions with small to large kernels read one feature of a dilated trunk. The smallest kernel makes the
    finest level, the largest the coarsest, though all are of one size. Each level becomes ``norm(ufp_output(x) +
    fuse(branches))``, as in :class:`.fpt.FPT`. The trunk's features are handed on, for an auxiliary loss.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_feature: str,
        out_channels: int,
        *,
        kernels: Sequence[int] = (1, 7, 15, 31),
        norm: str = "",
        transform: PyramidTransform | None = None,
        read_padding: bool = True,
        zero_init_fuse: bool = True,
        make_drop_block: Callable[[], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            bottom_up: a backbone that returns ``in_feature``; none of its features coarser than that one.
            in_feature: name of the feature that every level is made from.
            out_channels: of every level.
            kernels: odd and ascending; one level for each.
            transform: over levels named and strided as :func:`ufp_strides` says, with ``out_channels`` as its input
                channels. None: no branches.
            read_padding, zero_init_fuse, make_drop_block: as for :class:`.fpt.FPT`; without the first a kernel of 31
                carries what the trunk computes in the padding far into the image.
            norm: of the global and the output convolutions, as in Detectron2's ``get_norm``.

        Raises:
            ValueError: kernels that are not odd or do not ascend, or a transform over other levels.
        """
        super().__init__()
        shape = bottom_up.output_shape()[in_feature]
        self.levels = tuple(ufp_strides(kernels, shape.stride))
        check_levels(transform, self.levels)
        self.bottom_up, self.in_feature, self._stride = bottom_up, in_feature, shape.stride
        self.read_padding = read_padding
        self._shapes = {n: ShapeSpec(channels=out_channels, stride=shape.stride) for n in self.levels}
        self.global_conv = nn.ModuleDict(
            {f"u{k}": GlobalConv(shape.channels, out_channels, k, norm=norm) for k in kernels}
        )
        self.fpt = transform
        options = norm_factory(norm), zero_init_fuse, make_drop_block
        self.ufp_output = nn.ModuleDict(make_fusions(transform, self.levels, out_channels, out_channels, *options))

    @property
    def size_divisibility(self) -> int:
        """Images are padded to a multiple of the stride, so that a head can upsample to their size exactly."""
        return self._stride  # type: ignore[no-any-return]

    def output_shape(self) -> dict[str, ShapeSpec]:
        """The shapes of the trunk's features, then of the levels, fine to coarse."""
        return {**self.bottom_up.output_shape(), **self._shapes}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images, padded with zeros at the bottom and right.

        Returns:
            The trunk's features, and from level name to (B, out_channels, H / stride, W / stride):
            ``{"res4": ..., "res5": ..., "u1": ..., "u31": ...}``.
        """
        valid = ValidSizes.read(x) if self.read_padding else None
        features = self.bottom_up(x)
        return {**features, **self.neck(features[self.in_feature], valid)}

    def neck(self, feature: Tensor, valid: ValidSizes | None = None) -> dict[str, Tensor]:
        """The levels from the trunk's feature (B, C, H, W) and the valid sizes of the images that it comes from."""
        x = Level.of(feature, valid)
        source = {n: x.without_padding(conv(x.map, x)) for n, conv in self.global_conv.items()}
        return fuse(source, valid, transform=self.fpt, fusions=self.ufp_output)


def _path(in_channels: int, out_channels: int, sides: Sequence[tuple[int, int]]) -> nn.Sequential:
    """Convolutions with these kernels, one after the other, that keep the size."""
    path = nn.Sequential()
    for height, width in sides:
        conv = _LineConv(in_channels, out_channels, (height, width))
        weight_init.c2_xavier_fill(conv)
        path.append(conv)
        in_channels = out_channels
    return path
