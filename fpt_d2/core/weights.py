"""The softmax weights of chosen positions, row by row: what a branch attends to, without a matrix of all scores.

Everything here is of the first image of a batch.

Shape legend: N parts of the mixture, Q chosen positions of the target, K keys, h x w source map, S side of a square.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .level import Level, ValidSizes
from .local import ratio_of
from .mixture import mixture_gate
from .similarity import SIMILARITIES
from .transformers import LocalGroundingTransformer, MixtureTransformer


@dataclass(frozen=True)
class Weights:
    """The softmaxes of the chosen positions.

    Attributes:
        parts: (Q, N, K), each sums to one. In locality-constrained grounding the keys are those of a square.
        gate: (N,), the weights of the parts in the mixture, which sum to one.
        lay_out: computes :meth:`maps`, which not every caller needs.
    """

    parts: Tensor
    gate: Tensor
    lay_out: Callable[[], Tensor]

    def maps(self) -> Tensor:
        """``parts`` averaged over the chosen positions and laid out over the source: (N, h, w).

        A key that is a mean of positions gives each of them its share. Each map sums to one, less what falls beyond the
        image in locality-constrained grounding.
        """
        return self.lay_out()

    def entropy(self) -> Tensor | None:
        """Of each softmax, in units of ``log K``: (Q, N), from 0 (one key) to 1 (all alike). None for a single key."""
        keys = self.parts.shape[-1]
        return None if keys < 2 else torch.special.entr(self.parts).sum(-1) / math.log(keys)


@torch.no_grad()
def attention_weights(branch: MixtureTransformer, target: Level, source: Level, chosen: Tensor) -> Weights:
    """The weights by which chosen positions of a target attend to a source.

    Args:
        branch: of any similarity and pooling, local or global.
        target, source: what it is called with.
        chosen: (Q,) int64, indices of positions of the target, row by row.
    """
    target, source = first_image(target), first_image(source)
    if isinstance(branch, LocalGroundingTransformer):
        return _local_weights(branch, target, source, chosen)
    q, k, _, gate, bias, mask = branch.attention(target, source)
    scores = _dot_products(branch, q[:, chosen], k, bias)[0]  # (N, Q, K)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    parts = scores.softmax(-1).transpose(0, 1)
    of_image = parts if mask is None else parts[..., mask[0]]
    return Weights(of_image, gate[0].to(parts.dtype), partial(_spread, parts.mean(0), branch, source))


def first_image(level: Level) -> Level:
    """A batch of one."""
    valid = level.valid
    if valid is not None:
        valid = ValidSizes(valid.full, valid.tensor[:1], None if valid.numbers is None else valid.numbers[:1])
    return Level(level.map[:1], valid, stride=level.stride)


def _spread(weights: Tensor, branch: MixtureTransformer, source: Level) -> Tensor:
    """(N, K) -> (N, h, w): the pooling of the keys, transposed, which is its derivative."""
    with torch.enable_grad():
        ones = torch.ones_like(source.map[:, :1], dtype=weights.dtype, requires_grad=True)
        level = Level(ones, source.valid, stride=source.stride)
        keys = level.tokens(branch.kv_stride, branch.max_kv_tokens)[0][0, :, 0]
    maps = [torch.autograd.grad(keys, ones, row, retain_graph=True)[0][0, 0] for row in weights]
    # Padding that a stride's cell covers has a derivative too, but nothing to give.
    return source.without_padding(torch.stack(maps).unsqueeze(0))[0]


def _local_weights(branch: LocalGroundingTransformer, target: Level, source: Level, chosen: Tensor) -> Weights:
    """A place of a square that is beyond the image is a key of zeros."""
    positions, mask = source.positions
    q, k = branch.query_and_key(target.positions[0][:, chosen], positions)
    gate = mixture_gate(k, branch.gate, key_mask=mask)[0]
    if mask is not None:
        k = k.masked_fill(~mask.unsqueeze(2), 0)
    (height, width), side = target.map.shape[-2:], branch.square_size
    border = side // 2
    margins = (border, border + width, border, border + height)  # as far as a square can reach
    k = F.pad(k[0].t().unflatten(1, source.map.shape[-2:]), margins)
    ratio = source.stride // target.stride if source.stride and target.stride else None
    ratios = (ratio, ratio) if ratio else ratio_of(target.map, source.map)
    steps = torch.arange(side, device=chosen.device)
    places = (chosen // width, chosen % width)
    rows, columns = ((place // r)[:, None] + steps for place, r in zip(places, ratios))
    keys = k[:, rows[:, :, None], columns[:, None]].flatten(2).permute(1, 2, 0)  # (Q, S S, C)
    queries, bias, as_dot_product = q[0].unsqueeze(1), None, SIMILARITIES[branch.similarity]
    if as_dot_product is not None and branch.logit_scale is None:
        queries, keys, bias = as_dot_product(queries, keys, branch.num_parts, None)
    parts = _dot_products(branch, queries, keys, bias).squeeze(2).softmax(-1)  # (Q, N, S S)

    def lay_out() -> Tensor:
        maps = parts.new_zeros(parts.shape[1], *k.shape[1:])
        for squares, row, column in zip(parts, rows, columns):
            maps[:, row[:, None], column] += squares.unflatten(1, (side, side)) / len(parts)
        h, w = source.map.shape[-2:]
        return source.without_padding(maps[None, :, border : border + h, border : border + w])[0]

    return Weights(parts, gate.to(parts.dtype), lay_out)


def _dot_products(branch: MixtureTransformer, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """``scale (q_n . k_n + bias_n)`` of q (B, Q, C), k (B, K, C) and bias (B, N, K): (B, N, Q, K), float32 or wider."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        q, k = (t.to(dtype).unflatten(2, (branch.num_parts, -1)).transpose(1, 2) for t in (q, k))
        scores = q @ k.transpose(2, 3)
        if bias is not None:
            scores = scores + bias.to(dtype).unsqueeze(2)
        return torch.mul(scores, branch.scale)
