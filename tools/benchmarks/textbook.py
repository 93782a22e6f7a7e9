"""The attention of the FPT paper as a textbook writes it: every score map exists, autograd keeps what it needs.

This is the quadratic form that the authors' code takes, and what the fast paths of ``fpt_d2.core`` are compared with.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
H x W fine map, h x w coarse map, S side of the square of keys around a query.
"""

import math
from collections.abc import Mapping
from typing import Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from fpt_d2.core import GroundingTransformer, PyramidTransform
from fpt_d2.modeling import FPT, UFP


def mixture_attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, similarity: str) -> Tensor:
    """Attention by a mixture of softmaxes through all N Q x K maps.

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V). gate: (B, N).
        similarity: "embedded" (dot product) or "euclidean" (negative squared distance).

    Returns:
        (B, Q, V).
    """
    num_parts = gate.shape[1]
    q, k = (t.unflatten(2, (num_parts, -1)).transpose(1, 2) for t in (q, k))  # (B, N, Q or K, D)
    scores = q @ k.transpose(2, 3)
    if similarity == "euclidean":
        squares = q.square().sum(3).unsqueeze(3) + k.square().sum(3).unsqueeze(2)
        scores = 2 * scores - squares
    maps = torch.softmax(scores / math.sqrt(q.shape[3]), dim=3)
    weights = (gate[:, :, None, None].to(maps.dtype) * maps).sum(1) if num_parts > 1 else maps.squeeze(1)
    return weights @ v


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Dot products over the number of keys as weights, through the Q x K map; shapes as above."""
    return q @ k.transpose(1, 2) / k.shape[1] @ v


def local_mixture_attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, square_size: int) -> Tensor:
    """The Euclidean mixture within a square, by gathering the keys and the values of every query.

    Args:
        q: (B, C, H, W). k: (B, C, h, w). v: (B, V, h, w). gate: (B, N).
        square_size: S, odd.

    Returns:
        (B, V, H, W).
    """
    height, width = q.shape[-2:]
    index = _square_index((height, width), (k.shape[-2], k.shape[-1]), square_size, q.device)  # (Q, S S)
    k, v = (F.pad(t, [square_size // 2] * 4).flatten(2).transpose(1, 2)[:, index] for t in (k, v))  # (B, Q, S S, .)
    q, k = (t.unflatten(-1, (gate.shape[1], -1)) for t in (q.flatten(2).transpose(1, 2), k))  # D last
    products = torch.einsum("bqnd,bqsnd->bqns", q, k)
    squares = q.square().sum(-1).unsqueeze(3) + k.square().sum(-1).transpose(2, 3)
    maps = torch.softmax((2 * products - squares) / math.sqrt(q.shape[-1]), dim=3)
    weights = (gate[:, None, :, None] * maps).sum(2)  # (B, Q, S S)
    out = torch.einsum("bqs,bqsv->bqv", weights, v)
    return out.transpose(1, 2).unflatten(2, (height, width))


def _square_index(fine: tuple[int, int], coarse: tuple[int, int], side: int, device: torch.device) -> Tensor:
    """(Q, S S) places of each query's keys in the coarse map with a border of S // 2, flattened."""
    rows, columns = (
        torch.arange(f, device=device).div(max(1, round(f / c)), rounding_mode="floor").unsqueeze(1)
        + torch.arange(side, device=device)
        for f, c in zip(fine, coarse)
    )
    width = coarse[1] + side // 2 * 2
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).flatten(2).flatten(0, 1)


class TextbookTransform(PyramidTransform):
    """The pyramid transform with attention as above and its fusion one convolution of a concatenation."""

    def add_fused(
        self,
        y: Tensor,
        weight: Tensor,
        level: str,
        source: Mapping[str, Tensor],
        masks: Optional[Mapping[str, Tensor]] = None,
    ) -> Tensor:
        """As that of the base class, without padding."""
        x = source[level]
        branches = [_ground(self.st[level], x, x)] if level in self.st else []
        branches += [_ground(self.gt[edge], x, source[n]) for n in self.levels if (edge := f"{level}_{n}") in self.gt]
        branches += [self.rt[edge](x, source[n]) for n in self.levels if (edge := f"{level}_{n}") in self.rt]
        return y + F.conv2d(torch.cat(branches, dim=1), weight, padding=1)


def as_textbook(backbone: Union[FPT, UFP]) -> Union[FPT, UFP]:
    """The same backbone, with the same parameters, computing as a textbook does."""
    backbone.fpt.__class__ = TextbookTransform
    return backbone


def _ground(module: GroundingTransformer, fine: Tensor, coarse: Tensor) -> Tensor:
    """A self or grounding transformer: (B, C, H, W) and (B, C, h, w) -> (B, C, H, W)."""
    queries, keys = (t.flatten(2).transpose(1, 2) for t in (fine, coarse))
    q, k, v = module.query(queries), module.key(keys), module.value(keys)
    gate = k.new_ones(k.shape[0], 1) if module.gate is None else torch.softmax(k.mean(1) @ module.gate.t(), dim=1)
    if module.square_size > 0:
        q, k, v = (t.transpose(1, 2).unflatten(2, x.shape[-2:]) for t, x in ((q, fine), (k, coarse), (v, coarse)))
        return module.norm(local_mixture_attention(q, k, v, gate, square_size=module.square_size))
    if module.similarity == "dot":
        out = linear_attention(q, k, v)
    else:
        out = mixture_attention(q, k, v, gate, similarity=module.similarity)
    return module.norm(out.transpose(1, 2).unflatten(2, fine.shape[-2:]))
