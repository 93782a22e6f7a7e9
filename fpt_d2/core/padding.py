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
    return mask if _is_recorded() or not bool(mask.all()) else None


def _is_recorded() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


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
    if max_tokens > 0 and _is_recorded():
        return _pool_to_budget_recorded(x, mask, max_tokens)
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
    tokens, masks = [], []
    for image, height, width in zip(x, mask[:, :, 0].sum(1).tolist(), mask[:, 0, :].sum(1).tolist()):
        pooled = F.adaptive_avg_pool2d(image[:, :height, :width], budget_size(height, width, max_tokens)).flatten(1)
        missing = max_tokens - pooled.shape[1]
        tokens.append(F.pad(pooled, (0, missing)))
        masks.append(F.pad(mask.new_ones(pooled.shape[1]), (0, missing)))
    return torch.stack(tokens).transpose(1, 2), torch.stack(masks)


def _pool_to_budget_recorded(x: Tensor, mask: Optional[Tensor], max_tokens: int) -> Tuple[Tensor, Tensor]:
    """:func:`_pool_to_budget` without sizes that Python has to know: a recorded graph serves images of other sizes.

    Adaptive average pooling is a product with one matrix for the rows and one for the columns. The grid keeps the
    map's size (H, W); an image's cells are in its upper left corner.
    """
    if mask is None:
        mask = torch.ones_like(x[:, 0], dtype=torch.bool)
    height, width = mask[:, :, 0].sum(1), mask[:, 0, :].sum(1)
    rows, columns = _budget_sizes(height, width, max_tokens)
    dtype = torch.promote_types(x.dtype, torch.float32)
    over_rows = _pooling_matrix(height, rows, x.shape[2], dtype)
    over_columns = _pooling_matrix(width, columns, x.shape[3], dtype)
    with torch.autocast(x.device.type, enabled=False):
        grid = torch.einsum("brh,bchw->bcrw", over_rows, x.to(dtype))
        grid = torch.einsum("bkw,bcrw->bcrk", over_columns, grid).to(x.dtype)
    token = torch.arange(x.shape[2] * x.shape[3], device=x.device)[:max_tokens]
    used = token < (rows * columns).unsqueeze(1)  # (B, K)
    columns = columns.unsqueeze(1)
    cell = (token // columns * x.shape[3] + token % columns).masked_fill(~used, 0)
    return to_tokens(grid).gather(1, cell.unsqueeze(2).expand(-1, -1, x.shape[1])), used


def _pooling_matrix(length: Tensor, cells: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """(B, size, size): in its first ``cells`` rows the weights that average the first ``length`` positions into cells.

    Args:
        length, cells: (B,) integers; the borders of the cells are those of ``adaptive_avg_pool2d``.
    """
    length, cells = length[:, None, None], cells[:, None, None]
    position = torch.arange(size, device=length.device)
    cell = position.unsqueeze(1)
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    return ((start <= position) & (position < end)).to(dtype) / (end - start)


def budget_size(height: int, width: int, max_tokens: int) -> Tuple[int, int]:
    """The largest grid of about the map's aspect with at most ``max_tokens`` cells (the map itself if it fits)."""
    if height * width <= max_tokens:
        return height, width
    shrink = (max_tokens / (height * width)) ** 0.5
    # A side never vanishes; the other one then takes the budget.
    rows = min(max(1, int(height * shrink)), max_tokens)
    return rows, min(max(1, int(width * shrink)), max_tokens // rows)


def _budget_sizes(height: Tensor, width: Tensor, max_tokens: int) -> Tuple[Tensor, Tensor]:
    """:func:`budget_size` of integers (B,)."""
    budget = torch.full_like(height, max_tokens)
    shrink = (budget.double() / (height * width)).sqrt().clamp(max=1)
    rows = (height * shrink).long().clamp(1, max_tokens)
    return rows, torch.minimum((width * shrink).long().clamp(min=1), budget // rows)
