"""The formulas of the FPT paper written out, slow and obviously right: what every fast path is tested against.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
H x W fine map, h x w coarse map. Every function stores every score: for small maps only.
"""

from typing import Any, Dict, Mapping, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .padding import budget_size


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
    scale: Optional[float] = None,
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
            scores = scores * (width**-0.5 if scale is None else scale)  # (B, Q, K)
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


def self_transformer(module: Any, x: Tensor) -> Tensor:
    """What a :class:`.transformers.SelfTransformer` computes of (B, C, H, W) without padding."""
    return grounding_transformer(module, x, x)


def grounding_transformer(module: Any, fine: Tensor, coarse: Tensor) -> Tensor:
    """What a :class:`.transformers.GroundingTransformer` computes of (B, C, H, W) and (B, C, h, w) without padding."""
    pooled = _pool_to_budget(_pool_cells(coarse, module.kv_stride), module.max_kv_tokens)
    q, k, v = (_project(p, x) for p, x in ((module.query, fine), (module.key, pooled), (module.value, pooled)))
    queries, keys, values = (t.flatten(2).transpose(1, 2) for t in (q, k, v))
    gate = q.new_ones(q.shape[0], 1) if module.gate is None else mixture_gate(keys, module.gate)
    if module.similarity == "dot":
        out = linear_attention(queries, keys, values)
    elif module.square_size > 0:
        size, similarity = module.square_size, module.similarity
        return module.norm(local_mixture_attention(q, k, v, gate, square_size=size, similarity=similarity))
    else:
        out = mixture_attention(queries, keys, values, gate, similarity=module.similarity)
    return module.norm(out.transpose(1, 2).reshape(q.shape))


def rendering_transformer(module: Any, coarse: Tensor, fine: Tensor) -> Tensor:
    """What a :class:`.transformers.RenderingTransformer` computes of (B, C, h, w) and (B, C, H, W) without padding."""
    channel_weights = fine.mean((2, 3), keepdim=True)
    for conv in module.down:
        fine = conv(fine)
    if fine.shape != coarse.shape:
        fine = F.interpolate(fine, size=coarse.shape[-2:], mode="bilinear", align_corners=False)
    out = module.query(coarse * channel_weights) + fine
    return module.norm(out if module.out is None else module.out(out))


def pyramid_transform(
    module: Any, features: Mapping[str, Tensor], masks: Optional[Mapping[str, Tensor]] = None
) -> Dict[str, Tensor]:
    """What a :class:`.pyramid.PyramidTransform` computes: every image cut out of its padding and treated alone."""
    if masks is None:
        return _pyramid_transform(module, features)
    out: Dict[str, Tensor] = {}
    for b in range(len(next(iter(masks.values())))):
        sizes = {n: (int(m[b, :, 0].sum()), int(m[b, 0].sum())) for n, m in masks.items()}
        image = {n: x[b : b + 1, :, : sizes[n][0], : sizes[n][1]] for n, x in features.items()}
        for n, y in _pyramid_transform(module, image).items():
            full = out.setdefault(n, y.new_zeros(len(features[n]), y.shape[1], *features[n].shape[-2:]))
            full[b, :, : sizes[n][0], : sizes[n][1]] = y[0]
    return out


def _pyramid_transform(module: Any, features: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    maps = {n: module.reduce[n](x) for n, x in features.items()}
    out = {}
    for i, n in enumerate(module.levels):
        branches = [self_transformer(module.st[n], maps[n])] if n in module.st else []
        for m in module.levels[i + 1 :] if len(module.gt) > 0 else ():
            branches.append(grounding_transformer(module.gt[f"{n}_{m}"], maps[n], maps[m]))
        for m in module.levels[:i] if len(module.rt) > 0 else ():
            branches.append(rendering_transformer(module.rt[f"{n}_{m}"], maps[n], maps[m]))
        if branches:
            out[n] = torch.cat(branches, dim=1)
    return out


def _project(linear: Any, x: Tensor) -> Tensor:
    """A linear map at every position of (B, C, H, W)."""
    return torch.einsum("oc,bchw->bohw", linear.weight, x) + linear.bias[:, None, None]


def _pool_cells(x: Tensor, stride: int) -> Tensor:
    """Means over cells of ``stride`` x ``stride``, the last ones cut off by the border."""
    cells = [[cell.mean((2, 3)) for cell in rows.split(stride, 3)] for rows in x.split(stride, 2)]
    return torch.stack([torch.stack(row, 2) for row in cells], 2)


def _pool_to_budget(x: Tensor, max_tokens: int) -> Tensor:
    """Means over as many cells of about one size as the budget allows, borders between them as in torch."""
    if max_tokens == 0:
        return x
    sides = budget_size(x.shape[2], x.shape[3], max_tokens)
    rows, columns = (
        [slice(i * length // n, -(-(i + 1) * length // n)) for i in range(n)] for n, length in zip(sides, x.shape[2:])
    )
    return torch.stack([torch.stack([x[:, :, r, c].mean((2, 3)) for c in columns], 2) for r in rows], 2)
