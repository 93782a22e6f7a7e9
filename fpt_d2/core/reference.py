"""The formulas of the FPT paper written out, with every score stored: the textbook.

The fast paths are tested against it and measured beside it. What it takes of a module is its parameters and options.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
H x W fine map, h x w coarse map, S side of the square of keys around a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .level import grid_size


def mixture_gate(k: Tensor, weight: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """``softmax_n(w_n . mean_j k_j)``: k (B, K, C), weight (N, C), key_mask (B, K) -> (B, N)."""
    if key_mask is None:
        return torch.softmax(k.mean(1) @ weight.t(), dim=1)
    return torch.stack([torch.softmax(weight @ keys[mask].mean(0), dim=0) for keys, mask in zip(k, key_mask)])


def mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    similarity: str,
    key_mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """``sum_n gate_n softmax_j(s(q_in, k_jn) / sqrt(D)) v_j``; arguments of :func:`.attention.mixture_attention`."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k = (t.to(dtype).unflatten(2, (gate.shape[1], -1)).transpose(1, 2) for t in (q, k))  # (B, N, Q or K, D)
        scores = q @ k.transpose(2, 3)
        if similarity == "euclidean":  # -|q - k|^2
            scores = 2 * scores - q.square().sum(3).unsqueeze(3) - k.square().sum(3).unsqueeze(2)
        scores = scores * (q.shape[3] ** -0.5 if scale is None else scale)
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
        weights = (gate[:, :, None, None].to(dtype) * scores.softmax(3)).sum(1)
        return (weights @ v.to(dtype)).to(v.dtype)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """``sum_j (q_i . k_j / K) v_j`` through the whole matrix; arguments of :func:`.attention.linear_attention`."""
    weights = q @ k.transpose(1, 2)
    if key_mask is None:
        return weights / k.shape[1] @ v
    return weights.masked_fill(~key_mask.unsqueeze(1), 0) / key_mask.sum(1)[:, None, None] @ v


def local_mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    square_size: int,
    similarity: str,
    key_mask: Tensor | None = None,
    ratio: int | None = None,
) -> Tensor:
    """The keys and values of every query gathered; arguments of :func:`.local.local_mixture_attention`."""
    if key_mask is not None:
        k, v = (t * key_mask.unsqueeze(1) for t in (k, v))
    (batch, _, height, width), border = q.shape, square_size // 2
    index = _square_index(q.shape[-2:], k.shape[-2:], square_size, ratio).to(q.device)  # (Q, S S)
    # zeros wherever a window can reach
    k, v = (F.pad(t, (border, border + width, border, border + height)).flatten(2).transpose(1, 2) for t in (k, v))
    k, v = (t[:, index].flatten(0, 1) for t in (k, v))  # (B Q, S S, C or V)
    q = q.flatten(2).transpose(1, 2).flatten(0, 1).unsqueeze(1)  # (B Q, 1, C)
    gates = gate.repeat_interleave(height * width, dim=0)
    out = mixture_attention(q, k, v, gates, similarity=similarity)
    return out.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _square_index(fine: torch.Size, coarse: torch.Size, side: int, ratio: int | None) -> Tensor:
    """(Q, S S) places of each query's keys in the padded coarse map, flattened."""
    rows, columns = (
        torch.arange(f).div(ratio or max(1, round(f / c)), rounding_mode="floor").unsqueeze(1) + torch.arange(side)
        for f, c in zip(fine, coarse)
    )
    width = coarse[1] + side // 2 * 2 + fine[1]
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(2).flatten(0, 1)


def attend(module: Any, target: Tensor, source: Tensor, ratio: int | None = None) -> Tensor:
    """What a self or a grounding transformer computes of (B, C, H, W) and (B, C, h, w) without padding."""
    square_size = getattr(module, "square_size", 0)
    pooled = source if square_size else _pool_to_budget(_pool_cells(source, module.kv_stride), module.max_kv_tokens)
    q, k, v = (_project(p, x) for p, x in ((module.query, target), (module.key, pooled), (module.value, pooled)))
    queries, keys, values = (t.flatten(2).transpose(1, 2) for t in (q, k, v))
    similarity = getattr(module, "similarity", None)
    if getattr(module, "logit_scale", None) is not None:
        similarity, (queries, keys) = "embedded", _normalize_parts(module, queries, keys)
    if similarity is None:
        out = linear_attention(queries, keys, values).transpose(1, 2).unflatten(2, q.shape[-2:])
    else:
        gate = q.new_ones(q.shape[0], 1) if module.gate is None else mixture_gate(keys, module.gate)
        if square_size:
            options = {"square_size": square_size, "similarity": similarity, "ratio": ratio}
            q, k = (t.transpose(1, 2).view_as(x) for t, x in ((queries, q), (keys, k)))
            out = local_mixture_attention(q, k, v, gate, **options)
        else:
            out = (
                mixture_attention(queries, keys, values, gate, similarity=similarity, scale=module.scale)
                .transpose(1, 2)
                .unflatten(2, q.shape[-2:])
            )
    if getattr(module, "project", None) is not None:
        return target + _norm(module, F.conv2d(out, module.project.weight, module.project.bias))
    return _norm(module, out)


def _normalize_parts(module: Any, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k whose product over sqrt(D) is ``exp(t_n) cos(q_n, k_n)`` in each part; the keys have norm sqrt(D)."""
    q, k = (_over_rms(t.unflatten(2, (module.num_parts, -1)), 3) for t in (q, k))
    return (q * module.logit_scale.exp()[:, None] / q.shape[3] ** 0.5).flatten(2), k.flatten(2)


def _over_rms(x: Tensor, dim: int) -> Tensor:
    return x / (x.square().mean(dim, keepdim=True) + 1e-12).sqrt()


def render(module: Any, target: Tensor, source: Tensor) -> Tensor:
    """What a rendering transformer computes of (B, C, h, w) and the finer (B, C, H, W) without padding."""
    mean = source.mean((2, 3), keepdim=True)
    for conv in module.down:
        source = conv(source)
    if source.shape != target.shape:
        source = F.interpolate(source, size=target.shape[-2:], mode="bilinear", align_corners=False)
    if module.gate is None:
        if module.normalizes_gate:
            mean = _over_rms(mean, 1)
        out = module.query(target * mean) + source
    else:
        conv, norm, _ = module.gate
        out = F.relu(module.query(target) * F.relu(norm(conv(mean))) + source)
    return _norm(module, out if module.out is None else module.out(out))


def pyramid_transform(
    module: Any, features: Mapping[str, Tensor], sizes: Mapping[str, Sequence[tuple[int, int]]] | None = None
) -> dict[str, Tensor]:
    """What a :class:`.pyramid.PyramidTransform` computes: every image cut out of its padding and treated alone.

    Args:
        features: (B, C, H_n, W_n) by level. sizes: valid ones of each image by level, or None where nothing is padded.
    """
    if sizes is None:
        return _pyramid_transform(module, features)
    out: dict[str, Tensor] = {}
    for b in range(len(next(iter(sizes.values())))):
        image = {n: x[b : b + 1, :, : sizes[n][b][0], : sizes[n][b][1]] for n, x in features.items()}
        for n, y in _pyramid_transform(module, image).items():
            height, width = (-(-side // module.ratios[n]) for side in features[n].shape[-2:])
            full = out.setdefault(n, y.new_zeros(len(features[n]), y.shape[1], height, width))
            full[b, :, : y.shape[2], : y.shape[3]] = y[0]
    return out


def _pyramid_transform(module: Any, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    maps = {n: module.reduce[n](x) for n, x in features.items()}
    out = {}
    for i, n in enumerate(module.levels):
        target = _pool_cells(maps[n], module.ratios[n])
        branches = [attend(module.st[n], target, maps[n])] if n in module.st else []
        for m in module.levels[i + 1 :] if len(module.gt) > 0 else ():
            ratio = module.strides[m] // (module.strides[n] * module.ratios[n])
            branches.append(attend(module.gt[f"{n}_{m}"], target, maps[m], ratio))
        for m in module.levels[:i] if len(module.rt) > 0 else ():
            branches.append(render(module.rt[f"{n}_{m}"], target, maps[m]))
        if branches:
            out[n] = torch.cat(branches, dim=1) if module.fuse == "concat" else torch.stack(branches).sum(0)
    return out


def fuse(fusion: Any, x: Tensor, branches: Tensor | None, ratio: int = 1) -> Tensor:
    """What a :class:`.fusion.Fusion` computes: one convolution over the concatenation, then the norm.

    Args:
        branches: what :func:`pyramid_transform` returns of the level, or None.
        ratio: stride of the branches over that of ``x``: what is convolved there is repeated.
    """
    weight = fusion.weight
    if branches is not None and ratio == 1:
        weight = torch.cat([weight, *(conv.weight for conv in fusion.fuse)], dim=1)
        x = torch.cat((x, branches), dim=1)
    out = F.conv2d(x, weight, fusion.bias, padding=1)
    if branches is not None and ratio > 1:
        coarse = F.conv2d(branches, torch.cat([conv.weight for conv in fusion.fuse], dim=1), padding=1)
        fine = coarse.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3)
        out = out + fine[:, :, : x.shape[2], : x.shape[3]]
    return _norm(fusion, out)


def _norm(module: Any, x: Tensor) -> Tensor:
    return x if module.norm is None else module.norm(x)


def _project(linear: Any, x: Tensor) -> Tensor:
    """A linear map at every position of (B, C, H, W)."""
    return torch.einsum("oc,bchw->bohw", linear.weight, x) + linear.bias[:, None, None]  # type: ignore[no-any-return]


def _pool_cells(x: Tensor, stride: int) -> Tensor:
    """Means over cells of ``stride`` x ``stride``, the last ones cut off by the border."""
    if stride == 1:
        return x
    cells = [[cell.mean((2, 3)) for cell in rows.split(stride, 3)] for rows in x.split(stride, 2)]
    return torch.stack([torch.stack(row, 2) for row in cells], 2)


def _pool_to_budget(x: Tensor, max_tokens: int) -> Tensor:
    """Means over as many cells of about one size as the budget allows, borders between them as in torch."""
    if max_tokens == 0:
        return x
    sides = grid_size(x.shape[2], x.shape[3], max_tokens)
    rows, columns = (
        [slice(i * length // n, -(-(i + 1) * length // n)) for i in range(n)] for n, length in zip(sides, x.shape[2:])
    )
    return torch.stack([torch.stack([x[:, :, r, c].mean((2, 3)) for c in columns], 2) for r in rows], 2)
