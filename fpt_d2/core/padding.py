"""Which positions of a padded batch are image, and how to average and pool over those alone.

Detectron2 pads the images of a batch at the bottom and the right with exact zeros, after normalisation, and hands its
backbones the padded tensor only. A mask is (B, H, W) bool, True where there is image: a rectangle from the origin.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor


def valid_mask(images: Tensor) -> Tensor:
    """The image area of each padded image, read off its zero border.

    The area ends at the last row and the last column that are not zero in every channel. A row or column of image that
    is zero to the last bit (every pixel exactly the mean) at that border counts as padding: nothing attends to it. An
    image of zeros alone has no border to be read and is valid everywhere.

    Args:
        images: (B, C, H, W).

    Returns:
        (B, H, W) bool, at least one True for each image.
    """
    filled = (images != 0).any(1)
    rows, columns = (_up_to_last(filled.any(dim)) for dim in (2, 1))
    mask = rows.unsqueeze(2) & columns.unsqueeze(1)
    return mask | ~filled.flatten(1).any(1)[:, None, None]


def padding_mask(images: Tensor) -> Optional[Tensor]:
    """:func:`valid_mask`, or None where nothing is padded; not None in a recorded graph, which serves other images."""
    mask = valid_mask(images)
    recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
    return mask if recorded or not bool(mask.all()) else None


def _up_to_last(filled: Tensor) -> Tensor:
    """(B, L) bool -> (B, L) bool: True up to and including the last True."""
    return filled.flip(1).long().cumsum(1).flip(1) > 0


def resize_mask(mask: Tensor, size: Tuple[int, int]) -> Tensor:
    """(B, H, W) mask at the size of a coarser level: a position is valid where its first pixel is, so never none."""
    return F.interpolate(mask.unsqueeze(1).float(), size=size, mode="nearest").squeeze(1) > 0


def apply_mask(x: Tensor, mask: Optional[Tensor]) -> Tensor:
    """(B, C, H, W) with zeros in the padding, as a convolution sees them beyond an unpadded image's border."""
    return x if mask is None else x * mask.unsqueeze(1).to(x.dtype)


def masked_mean(x: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Mean of (B, C, H, W) over the valid positions: (B, C, 1, 1)."""
    if mask is None:
        return x.mean((2, 3), keepdim=True)
    total = apply_mask(x, mask).sum((2, 3), keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return (total / mask.sum((1, 2))[:, None, None, None]).to(x.dtype)


def pool_to_tokens(
    x: Tensor, mask: Optional[Tensor], *, stride: int = 1, max_tokens: int = 0
) -> Tuple[Tensor, Optional[Tensor]]:
    """A map as a set of keys, averaged over cells so that there are fewer; averages run over valid positions.

    Args:
        x: (B, C, H, W). mask: (B, H, W) or None.
        stride: side of the cells that are averaged; 1 keeps all.
        max_tokens: at most this many cells per image, of one size within an image, the aspect kept; 0 is no bound. The
            cells follow each image's own valid size, so that they do not depend on the padding.

    Returns:
        Tokens (B, K, C) and their mask (B, K), or None where all are valid.
    """
    if stride > 1:
        x, mask = _pool_cells(x, mask, stride)
    if 0 < max_tokens < x.shape[2] * x.shape[3]:
        return _pool_to_budget(x, mask, max_tokens)
    return to_tokens(x), None if mask is None else mask.flatten(1)


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def _pool_cells(x: Tensor, mask: Optional[Tensor], stride: int) -> Tuple[Tensor, Optional[Tensor]]:
    if mask is None:
        return F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False), None
    pooled = F.avg_pool2d(apply_mask(x, mask), stride, ceil_mode=True, count_include_pad=False)
    share = F.avg_pool2d(mask.unsqueeze(1).to(x.dtype), stride, ceil_mode=True, count_include_pad=False)
    return pooled / share.clamp(min=torch.finfo(x.dtype).tiny), share.squeeze(1) > 0


def _pool_to_budget(x: Tensor, mask: Optional[Tensor], max_tokens: int) -> Tuple[Tensor, Optional[Tensor]]:
    if mask is None:
        return to_tokens(F.adaptive_avg_pool2d(x, budget_size(x.shape[2], x.shape[3], max_tokens))), None
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        # A recorded graph cannot have sizes that depend on the padding: the cells follow the padded size there.
        size = budget_size(x.shape[2], x.shape[3], max_tokens)
        share = F.adaptive_avg_pool2d(mask.unsqueeze(1).to(x.dtype), size)
        pooled = F.adaptive_avg_pool2d(apply_mask(x, mask), size) / share.clamp(min=torch.finfo(x.dtype).tiny)
        return to_tokens(pooled), share.flatten(1) > 0
    tokens, masks = [], []
    for image, height, width in zip(x, mask[:, :, 0].sum(1).tolist(), mask[:, 0, :].sum(1).tolist()):
        pooled = F.adaptive_avg_pool2d(image[:, :height, :width], budget_size(height, width, max_tokens)).flatten(1)
        missing = max_tokens - pooled.shape[1]
        tokens.append(F.pad(pooled, (0, missing)))
        masks.append(F.pad(mask.new_ones(pooled.shape[1]), (0, missing)))
    return torch.stack(tokens).transpose(1, 2), torch.stack(masks)


def budget_size(height: int, width: int, max_tokens: int) -> Tuple[int, int]:
    """The largest grid of about the map's aspect with at most ``max_tokens`` cells (the map itself if it fits)."""
    if height * width <= max_tokens:
        return height, width
    shrink = (max_tokens / (height * width)) ** 0.5
    # A side never vanishes; the other one then takes the budget.
    rows = min(max(1, int(height * shrink)), max_tokens)
    return rows, min(max(1, int(width * shrink)), max_tokens // rows)
