"""DropBlock, the regulariser on FPT's output (paper, ablation of the training tricks)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def drop_block(x: Tensor, drop_prob: float, block_size: int, *, training: bool = True) -> Tensor:
    """Zero square blocks of a map in training and scale the rest up to keep the mean; per channel.

    torchvision's own scales by a sum in the dtype of ``x``, which float16 maps of more than 65504 values overflow.

    Args:
        x: (B, C, H, W).
        drop_prob: share of the map that is dropped, in [0, 1), as far as blocks do not overlap (DropBlock paper).
        block_size: odd side of a block, in positions of the map; clipped to the map.
        training: False returns ``x``.

    Raises:
        ValueError: a value that is not allowed.
    """
    if not 0 <= drop_prob < 1:
        raise ValueError(f"drop_prob is {drop_prob}; it must lie in [0, 1)")
    if block_size < 1 or block_size % 2 == 0:
        raise ValueError(f"block_size is {block_size}; it must be odd and positive")
    if not training or drop_prob == 0:
        return x
    height, width = x.shape[-2:]
    side = min(block_size, height, width)
    starts = x.new_empty(*x.shape[:2], height - side + 1, width - side + 1)
    starts.bernoulli_(drop_prob * height * width / (side**2 * starts.shape[2] * starts.shape[3]))
    keep = 1 - F.max_pool2d(F.pad(starts, [side - 1] * 4), side, stride=1)
    scale = keep.numel() / keep.sum(dtype=torch.promote_types(x.dtype, torch.float32)).clamp(min=1)
    return x * keep * scale.to(x.dtype)


class DropBlock(nn.Module):
    """:func:`drop_block` as a module."""

    def __init__(self, drop_prob: float, block_size: int) -> None:
        super().__init__()
        drop_block(Tensor(1, 1, 1, 1), drop_prob, block_size, training=False)  # check the values
        self.drop_prob, self.block_size = drop_prob, block_size

    def forward(self, x: Tensor) -> Tensor:
        return drop_block(x, self.drop_prob, self.block_size, training=self.training)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"
