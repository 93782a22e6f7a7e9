"""DropBlock, the regulariser on FPT's output (paper, ablation of the training tricks)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import check_argument


def drop_block(x: Tensor, drop_prob: float, block_size: int, *, shared: bool = False, training: bool = True) -> Tensor:
    """Zero square blocks of a map in training and scale the rest up to keep the mean.

    torchvision's own scales by a sum in the dtype of ``x``, which float16 maps of more than 65504 values overflow.

    Args:
        x: (B, C, H, W).
        drop_prob: share of the map that is dropped, in [0, 1), as far as blocks do not overlap (DropBlock paper).
        block_size: odd side of a block, in positions of the map; clipped to the map.
        shared: drop the same blocks of every channel of an image, as the package that the authors name does; otherwise
            each channel has its own.
        training: False returns ``x``.

    Raises:
        ValueError: a value that is not allowed.
    """
    check_argument("drop_prob", drop_prob, 0 <= drop_prob < 1, "0 (off) up to below 1")
    check_argument("block_size", block_size, block_size > 0 and block_size % 2 == 1, "an odd number above 0")
    if not training or drop_prob == 0:
        return x
    height, width = x.shape[-2:]
    side = min(block_size, height, width)
    channels = 1 if shared else x.shape[1]
    starts = x.new_empty(x.shape[0], channels, height - side + 1, width - side + 1)
    starts.bernoulli_(drop_prob * height * width / (side**2 * starts.shape[2] * starts.shape[3]))
    keep = 1 - F.max_pool2d(F.pad(starts, [side - 1] * 4), side, stride=1)
    scale = keep.numel() / keep.sum(dtype=torch.promote_types(x.dtype, torch.float32)).clamp(min=1)
    return x * keep * scale.to(x.dtype)


class DropBlock(nn.Module):
    """:func:`drop_block` as a module."""

    def __init__(self, drop_prob: float, block_size: int, *, shared: bool = False) -> None:
        super().__init__()
        drop_block(Tensor(1, 1, 1, 1), drop_prob, block_size, training=False)  # check the values
        self.drop_prob, self.block_size, self.shared = drop_prob, block_size, shared

    def forward(self, x: Tensor) -> Tensor:
        return drop_block(x, self.drop_prob, self.block_size, shared=self.shared, training=self.training)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}, shared={self.shared}"
