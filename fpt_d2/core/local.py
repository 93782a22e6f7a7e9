"""Locality-constrained attention: a query meets the keys of a square around its own place (FPT paper, LGT).

Shape legend: B batch, N parts of the mixture, C channels, D = C / N, V value channels, H x W fine map (queries),
h x w coarse map (keys), r ratio of the two, S side of the square, t side of a tile of coarse positions, R rows of Z
tiles.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .arguments import check_argument, one_of
from .level import is_recorded, to_tokens
from .similarity import SIMILARITIES

# Side of a tile of coarse positions. Larger tiles copy less of k and v at their borders and compute more scores that
# the window then masks; 4 measured best for windows of 3 to 9, in training above all.
TILE = 4
# Scores that are computed together: as many rows of tiles as have no more, at least one. On the CPU one row is as fast
# as many; a GPU waits for the launches of each.
GROUP_BYTES = {"cpu": 0, "cuda": 2**28}


def ratio_of(fine: Tensor, coarse: Tensor) -> tuple[int, int]:
    """Fine positions per coarse position along H and W, for any two sizes (7 x 7 over 4 x 4 is 2, 2)."""
    ratios = (max(1, round(int(fine.shape[i]) / int(coarse.shape[i]))) for i in (-2, -1))
    return next(ratios), next(ratios)


def local_mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    square_size: int,
    similarity: str = "euclidean",
    key_mask: Tensor | None = None,
    ratio: int | None = None,
) -> Tensor:
    """Mixture-of-softmaxes attention within a square window.

    The query at (i, j) meets the S x S coarse positions around (i // r, j // r). Positions outside the map, or in the
    padding, have k = v = 0 and keep their share of the softmax, as in the paper. Keys are read tile by tile, with one
    tile's border of S // 2 around it: no unfolded copy of k or v exists beyond a few rows of tiles.

    Args:
        q: (B, C, H, W). k: (B, C, h, w). v: (B, V, h, w).
        gate: (B, N).
        square_size: S, odd.
        similarity: "embedded" or "euclidean", as in :func:`.attention.mixture_attention`.
        key_mask: (B, h, w) bool, False where a key is padding, or None.
        ratio: r, that of the strides. None: H / h and W / w rounded, which is that where they are multiples.

    Returns:
        (B, V, H, W) in the dtype of ``v``.

    Raises:
        ValueError: even or non-positive ``square_size``, or an unknown similarity.
    """
    check_argument("similarity", similarity, similarity in SIMILARITIES, one_of(SIMILARITIES))
    check_argument("square_size", square_size, square_size > 0 and square_size % 2 == 1, "an odd number above 0")
    valid = torch.ones_like(k[:, :1], dtype=torch.bool) if key_mask is None else key_mask.unsqueeze(1)
    k, v = (t.masked_fill(~valid, 0) for t in (k, v))
    height, width = map(int, q.shape[-2:])  # int: torch.jit.trace has tensors there
    rh, rw = (ratio, ratio) if ratio else ratio_of(q, k)
    side, border = min(TILE, -(-height // rh), -(-width // rw)), square_size // 2
    rows, columns = -(-height // (side * rh)), -(-width // (side * rw))
    q = F.pad(q, (0, columns * side * rw - width, 0, rows * side * rh - height))
    # zeros around the map; a negative pad cuts off what no window reaches
    right, bottom = columns * side + border - int(k.shape[-1]), rows * side + border - int(k.shape[-2])
    k, v, valid = (F.pad(t, (border, right, border, bottom)) for t in (k, v, valid))
    q, k = _as_dot_product(q, k, valid, similarity, gate.shape[1])
    group = _rows_together(q, gate.shape[1], (rh, rw), side, square_size)
    # split, not slices: the gradient of a slice is a map of zeros around it, for every group
    k_rows, v_rows = (t.unfold(2, side + 2 * border, side).transpose(3, 4).split(group, dim=2) for t in (k, v))
    outputs, computed_anew = [], torch.is_grad_enabled() and not is_recorded() and _may_checkpoint()
    for rows_of_tiles in zip(q.split(group * side * rh, dim=2), k_rows, v_rows):
        arguments = (*rows_of_tiles, gate, square_size, (rh, rw), side)
        if computed_anew:
            outputs.append(checkpoint(_attend_rows, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            outputs.append(_attend_rows(*arguments))
    return torch.cat(outputs, dim=2)[:, :, :height, :width]


def _rows_together(q: Tensor, num_parts: int, ratio: tuple[int, int], side: int, square_size: int) -> int:
    """How many rows of tiles are computed at once; in a graph, which serves any batch, one."""
    limit = GROUP_BYTES.get(q.device.type, 0)
    if not limit or is_recorded():
        return 1
    queries, keys = q.shape[0] * side * ratio[0] * q.shape[3], (side + square_size - 1) ** 2
    return max(1, limit // max(1, 4 * num_parts * queries * keys))


def _as_dot_product(q: Tensor, k: Tensor, valid: Tensor, similarity: str, num_parts: int) -> tuple[Tensor, Tensor]:
    """q and k, the latter with the bias of each part as N more channels: the keys outside the map are keys too."""
    as_dot_product = SIMILARITIES[similarity]
    if as_dot_product is None:
        return q, torch.cat((k, torch.zeros_like(k[:, :num_parts])), dim=1)
    queries, keys, bias = as_dot_product(to_tokens(q), to_tokens(k), num_parts, valid.flatten(1))
    q = queries.transpose(1, 2).unflatten(2, q.shape[-2:])
    return q, torch.cat((keys.transpose(1, 2), bias), dim=1).unflatten(2, k.shape[-2:])


def _may_checkpoint() -> bool:
    """torch.func allows no hooks on saved tensors, of which a checkpoint is made."""
    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            return True
    except RuntimeError:
        return False


def _attend_rows(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, square_size: int, ratio: tuple[int, int], side: int
) -> Tensor:
    """q (B, C, R t r, Z t r), k and v (B, C + N or V, R, t + S - 1, Z t + S - 1) -> (B, V, R t r, Z t r)."""
    num_parts, (rh, rw), extent = gate.shape[1], ratio, side + square_size - 1
    rows = k.shape[2]
    q = q.unflatten(2, (rows, side * rh))
    # (B, R Z, queries or keys of a tile, channels)
    q, k, v = (_tiles(q, side * rw, side * rw), _tiles(k, extent, side), _tiles(v, extent, side))
    dtype = torch.promote_types(q.dtype, torch.float32)
    scale = (int(q.shape[-1]) // int(num_parts)) ** -0.5  # int: a tensor's root in torch.jit.trace is one of float32
    with torch.autocast(q.device.type, enabled=False):
        k, bias = k.to(dtype).split([q.shape[-1], num_parts], dim=3)
        q, k = (t.to(dtype).unflatten(3, (num_parts, -1)).transpose(2, 3) for t in (q, k))  # (B, R Z, N, ., D)
        scores = (scale * q) @ k.transpose(-1, -2) + scale * bias.transpose(2, 3).unsqueeze(3)
        window = _window(ratio, side, square_size, scores.device)
        weights = scores.masked_fill(~window, float("-inf")).softmax(-1)
        mixed = torch.einsum("bn,bznqk->bzqk", gate.to(dtype), weights)
        out = mixed.to(v.dtype) @ v  # (B, R Z, t r t r, V)
    out = out.unflatten(2, (side * rh, side * rw)).unflatten(1, (rows, -1))  # (B, R, Z, t r, t r, V)
    return out.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # type: ignore[no-any-return]


def _tiles(x: Tensor, extent: int, step: int) -> Tensor:
    """(B, C, R, rows, columns) -> (B, R Z, rows * extent, C): windows of ``extent`` columns at every ``step``."""
    return x.unfold(4, extent, step).permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def _window(ratio: tuple[int, int], side: int, square_size: int, device: torch.device) -> Tensor:
    """(queries, keys) of a tile, bool: does the key lie in the query's square."""
    axes = []
    for r in ratio:
        first = torch.arange(side * r, device=device).unsqueeze(1) // r  # the window of coarse row i starts at key i
        key = torch.arange(side + square_size - 1, device=device)
        axes.append((key >= first) & (key < first + square_size))
    rows, columns = axes
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2, 3).flatten(0, 1)
