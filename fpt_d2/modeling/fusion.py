"""What a backbone does with the branches of a pyramid transform, whatever pyramid it built."""

from typing import Dict, Mapping, Optional

import fvcore.nn.weight_init as weight_init
from detectron2.layers import Conv2d
from torch import Tensor, nn

from ..core import PyramidTransform
from ..core.padding import padding_mask, resize_mask


def fuse_conv(in_channels: int, out_channels: int, *, stride: int = 1, zero_init: bool) -> Conv2d:
    """The 3x3 convolution that adds to a level; without bias, which the level's own convolution has."""
    conv = Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    if zero_init:
        nn.init.zeros_(conv.weight)
    else:
        weight_init.c2_xavier_fill(conv)
    return conv


def level_masks(images: Tensor, levels: Mapping[str, Tensor]) -> Optional[Dict[str, Tensor]]:
    """The valid area (B, H_n, W_n) of every level of padded images (B, 3, H, W); None where nothing is padded."""
    mask = padding_mask(images)
    return None if mask is None else {n: resize_mask(mask, x.shape[-2:]) for n, x in levels.items()}


def fuse(
    source: Mapping[str, Tensor],
    masks: Optional[Mapping[str, Tensor]],
    *,
    transform: Optional[PyramidTransform],
    output_convs: Mapping[str, nn.Module],
    fuse_convs: Mapping[str, nn.Module],
    drop_block: Optional[nn.Module],
) -> Dict[str, Tensor]:
    """``output_conv(x) + fuse_conv(branches)`` of every level.

    Args:
        source: (B, C, H_n, W_n) by level. masks: (B, H_n, W_n) by level, or None.
        transform: None for no branches.
        output_convs: of every level. fuse_convs: of the levels that have branches.
        drop_block: applied to the sum, or None.
    """
    inputs = None if transform is None else transform.source(source, masks)
    outputs = {}
    for level, x in source.items():
        y = output_convs[level](x)
        if level in fuse_convs:
            y = transform.add_fused(y, fuse_convs[level].weight, level, inputs, masks)
        outputs[level] = y if drop_block is None else drop_block(y)
    return outputs
