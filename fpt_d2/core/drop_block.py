"""DropBlock, the regulariser on FPT's output (paper, ablation of the training tricks)."""

from torch import Tensor, nn
from torchvision.ops import drop_block2d


def drop_block(x: Tensor, drop_prob: float, block_size: int, *, training: bool = True) -> Tensor:
    """Zero square blocks of a map in training and scale the rest up to keep the mean; per channel.

    torchvision's DropBlock, with checked arguments.

    Args:
        x: (B, C, H, W).
        drop_prob: expected share of the map that is dropped, in [0, 1).
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
    # torchvision pads by half a block: a clipped block must stay odd too
    side = min(block_size, *x.shape[-2:])
    out: Tensor = drop_block2d(x, drop_prob, side - (side % 2 == 0), training=True)
    return out


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
