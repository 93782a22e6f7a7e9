"""The Feature Pyramid Transformer as a Detectron2 backbone."""

from typing import Dict, List, Mapping, Optional, Sequence

import torch.nn.functional as F
from detectron2.modeling import FPN, Backbone
from torch import Tensor, nn

from ..core import PyramidTransform
from .fusion import fuse, fuse_conv, level_masks

PYRAMIDS = ("fpn", "bfp")


def pyramid_strides(bottom_up: Backbone, in_features: Sequence[str]) -> Dict[str, int]:
    """Names (``p2`` has stride 4) and strides of the levels over ``in_features``, as Detectron2's FPN names them."""
    strides = (bottom_up.output_shape()[f].stride for f in in_features)
    return {f"p{stride.bit_length() - 1}": stride for stride in strides}


class FPT(FPN):
    """
    This module implements the Feature Pyramid Transformer (Zhang et al., ECCV 2020) over any bottom-up backbone.

    A source pyramid is built as in Detectron2's FPN, with its parameter names, so that an FPN checkpoint loads. The
    transform reads it, and each level becomes ``fpn_output(x) + fpt_fuse(branches)``, which is the paper's
    convolution over the concatenation, split in two. Without a transform it is FPN, or BFP.

    Padding is read off the exact zeros at the bottom and right of the input (see :func:`..core.padding.valid_mask`),
    so that an image's features do not depend on the size of the images it is batched with.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        transform: Optional[PyramidTransform] = None,
        pyramid: str = "fpn",
        zero_init_fuse: bool = True,
        drop_block: Optional[nn.Module] = None,
        norm: str = "",
        top_block: Optional[nn.Module] = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        """
        Args:
            bottom_up, in_features, out_channels, norm, top_block, fuse_type, square_pad: as in Detectron2's FPN.
            transform: over levels named and strided as :func:`pyramid_strides` says, with ``out_channels`` as its
                input channels. None: no branches.
            pyramid: the source, "fpn" or "bfp". The latter adds a bottom-up path as in PANet, without its ReLUs:
                ``x_n + conv(x_{n-1})`` from fine to coarse, with a 3x3 convolution of stride 2.
            zero_init_fuse: start the fusion of the branches and the bottom-up path at zero: at its start the model
                is FPN.
            drop_block: applied to every level's output, e.g. :class:`..core.DropBlock`.

        Raises:
            ValueError: unknown pyramid, or a transform over other levels.
        """
        super().__init__(bottom_up, list(in_features), out_channels, norm, top_block, fuse_type, square_pad)
        if pyramid not in PYRAMIDS:
            raise ValueError(f"pyramid is {pyramid!r}; allowed: {', '.join(map(repr, PYRAMIDS))}")
        self.levels = tuple(pyramid_strides(bottom_up, in_features))
        if transform is not None and transform.levels != self.levels:
            raise ValueError(f"the transform has levels {transform.levels}, the pyramid {self.levels}")
        self.fpt = transform
        self.drop_block = drop_block
        self._add_convs("bfp_down", self.levels[1:] if pyramid == "bfp" else (), out_channels, 2, zero_init_fuse)
        fused = [n for n in self.levels if transform is not None and transform.out_channels(n) > 0]
        self._add_convs("fpt_fuse", fused, out_channels, 1, zero_init_fuse)

    def _add_convs(self, name: str, levels: Sequence[str], out_channels: int, stride: int, zero_init: bool) -> None:
        for level in levels:
            in_channels = self.fpt.out_channels(level) if name == "fpt_fuse" else out_channels
            conv = fuse_conv(in_channels, out_channels, stride=stride, zero_init=zero_init)
            self.add_module(f"{name}{level[1:]}", conv)

    def _convs(self, name: str) -> Dict[str, nn.Module]:
        """The convolutions of a name by level, of the levels that have one."""
        return {n: getattr(self, f"{name}{n[1:]}") for n in self.levels if hasattr(self, f"{name}{n[1:]}")}

    def forward(self, x: Tensor) -> Dict[str, Tensor]:
        """
        Args:
            x: (B, 3, H, W) normalised images, padded with zeros at the bottom and right.

        Returns:
            From level name to (B, out_channels, H / stride, W / stride), fine to coarse: ``{"p2": ..., "p6": ...}``.
        """
        bottom_up = self.bottom_up(x)
        source = self.source_pyramid(bottom_up)
        outputs = self.fuse(source, self.level_masks(x, source))
        return self._extend(outputs, bottom_up)

    def source_pyramid(self, bottom_up: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """The pyramid that the transform reads, fine to coarse: laterals, top-down path, for "bfp" bottom-up path."""
        maps: List[Tensor] = []
        for feature, lateral in zip(reversed(self.in_features), self.lateral_convs):
            x = lateral(bottom_up[feature])
            if maps:
                x = x + F.interpolate(maps[-1], size=x.shape[-2:], mode="nearest")
                x = x / 2 if self._fuse_type == "avg" else x
            maps.append(x)
        source = dict(zip(self.levels, reversed(maps)))
        for level, down in self._convs("bfp_down").items():
            finer = self.levels[self.levels.index(level) - 1]
            source[level] = source[level] + _fit(down(source[finer]), source[level])
        return source

    def level_masks(self, images: Tensor, source: Mapping[str, Tensor]) -> Optional[Dict[str, Tensor]]:
        """The valid area (B, H_n, W_n) of every level; None where nothing needs it, or nothing is padded."""
        return None if self.fpt is None else level_masks(images, source)

    def fuse(self, source: Mapping[str, Tensor], masks: Optional[Mapping[str, Tensor]]) -> Dict[str, Tensor]:
        """``fpn_output(x) + fpt_fuse(branches)`` of every level."""
        return fuse(
            source,
            masks,
            transform=self.fpt,
            output_convs=self._convs("fpn_output"),
            fuse_convs=self._convs("fpt_fuse"),
            drop_block=self.drop_block,
        )

    def _extend(self, outputs: Dict[str, Tensor], bottom_up: Mapping[str, Tensor]) -> Dict[str, Tensor]:
        """Add the top block's levels, as Detectron2's FPN does."""
        if self.top_block is not None:
            feature = self.top_block.in_feature
            extra = self.top_block(bottom_up[feature] if feature in bottom_up else outputs[feature])
            outputs.update(zip(self._out_features[len(outputs) :], extra))
        return outputs


def _fit(x: Tensor, target: Tensor) -> Tensor:
    """``x`` at the size of ``target``, from which a trunk that rounds odd sizes down makes it differ."""
    if x.shape[-2:] == target.shape[-2:]:
        return x
    return F.interpolate(x, size=target.shape[-2:], mode="bilinear", align_corners=False)
