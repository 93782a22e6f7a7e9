"""The formulas of the FPT paper written out, slow and obviously right: what every fast path is tested against.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
H x W fine map, h x w coarse map. Every function stores every score: for small maps only.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def mixture_gate(k: Tensor, weight: Tensor, *, key_mask: Optional[Tensor] = None) -> Tensor:
    """``softmax_n(w_n . mean_j k_j)``: k (B, K, C), weight (N, C), key_mask (B, K) -> (B, N)."""
    gates = []
    for b in range(k.shape[0]):
        keys = k[b] if key_mask is None else k[b][key_mask[b]]
        gates.append(torch.softmax(weight @ keys.mean(0), dim=0))
    return torch.stack(gates)


def mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    similarity: str,
    key_mask: Optional[Tensor] = None,
) -> Tensor:
    """``sum_n gate_n softmax_j(s(q_in, k_jn) / sqrt(D)) v_j``; arguments of :func:`.attention.mixture_attention`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    width = q.shape[2] // gate.shape[1]
    out = torch.zeros((), dtype=dtype, device=q.device)
    with torch.autocast(q.device.type, enabled=False):
        for n in range(gate.shape[1]):
            q_n, k_n = (t[..., n * width : (n + 1) * width].to(dtype) for t in (q, k))
            if similarity == "euclidean":
                scores = -(q_n.unsqueeze(2) - k_n.unsqueeze(1)).square().sum(-1)
            else:
                scores = q_n @ k_n.transpose(1, 2)
            scores = scores / width**0.5  # (B, Q, K)
            if key_mask is not None:
                scores = scores.masked_fill(~key_mask.unsqueeze(1), float("-inf"))
            out = out + gate[:, n, None, None].to(dtype) * (scores.softmax(-1) @ v.to(dtype))
    return out.to(v.dtype)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Optional[Tensor] = None) -> Tensor:
    """``sum_j (q_i . k_j / K) v_j`` through the whole matrix; arguments of :func:`.attention.linear_attention`."""
    weights = q @ k.transpose(1, 2)
    if key_mask is None:
        return weights / k.shape[1] @ v
    weights = weights.masked_fill(~key_mask.unsqueeze(1), 0)
    return weights / key_mask.sum(1)[:, None, None] @ v


def local_mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    square_size: int,
    similarity: str,
    key_mask: Optional[Tensor] = None,
) -> Tensor:
    """Query by query, each with its own S x S keys; arguments of :func:`.local.local_mixture_attention`."""
    if key_mask is not None:
        k, v = (t * key_mask.unsqueeze(1) for t in (k, v))
    height, width = q.shape[-2:]
    rh, rw = (max(1, round(q.shape[i] / k.shape[i])) for i in (-2, -1))
    border = square_size // 2
    # zeros wherever a window can reach
    k, v = (F.pad(t, (border, border + width, border, border + height)) for t in (k, v))
    out = q.new_empty(q.shape[0], v.shape[1], height, width)
    for i in range(height):
        for j in range(width):
            rows, columns = (slice(c, c + square_size) for c in (i // rh, j // rw))
            keys, values = (t[:, :, rows, columns].flatten(2).transpose(1, 2) for t in (k, v))
            out[:, :, i, j] = mixture_attention(
                q[:, :, i, j].unsqueeze(1), keys, values, gate, similarity=similarity
            ).squeeze(1)
    return out


def drop_block(x: Tensor, centers: Tensor, block_size: int) -> Tensor:
    """DropBlock with given block positions (DropBlock paper, algorithm 1).

    Args:
        x: (B, C, H, W).
        centers: (B, C, H - S + 1, W - S + 1) bool: a block starts (upper left corner) at each True.
        block_size: S.

    Returns:
        (B, C, H, W): zero in the blocks, the rest scaled so that the mean over what is kept stays.
    """
    keep = torch.ones_like(x)
    for b, c, i, j in centers.nonzero().tolist():
        keep[b, c, i : i + block_size, j : j + block_size] = 0
    return x * keep * keep.numel() / keep.sum()
