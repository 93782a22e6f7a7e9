"""Scalars of what the branches do, ``MODEL.FPT.LOG_ATTENTION``: how sharp they attend, and how much they say.

``fpt/entropy/gt_p2_p4`` is the entropy of the softmaxes by which p2 attends to p4, from 0 (a single key) to 1 (the mean
of all keys). ``fpt/rms/gt_p2_p4`` is the root mean square of that branch's output over that of p2 as it reads it. One
that is dead has an rms of 0, one that is stuck an entropy that stays at 1 or falls to 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.engine import HookBase
from torch import Tensor, nn

from ..core import Level, LocalGroundingTransformer, PyramidTransform, ValidSizes
from ..core.local import ratio_of
from ..core.similarity import SIMILARITIES
from ..core.transformers import MixtureTransformer

# Of the detector's writers, which then write what is new.
PERIOD = 20
# Random positions of the first image of a batch whose softmaxes are computed for the entropy.
NUM_QUERIES = 64


class AttentionLog(HookBase):
    """Measures the branches of a model in every 20th iteration and in the last one; in the others it does nothing."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)  # its own: a training is the same with and without it
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._scalars: dict[str, Tensor] = {}

    def before_step(self) -> None:
        last = self.trainer.iter + 1
        if last % PERIOD == 0 or last == self.trainer.max_iter:
            for name, branch in named_branches(self.trainer.model):
                self._handles.append(branch.register_forward_hook(partial(self._measure, name)))

    def after_step(self) -> None:
        for handle in self._handles:
            handle.remove()
        for name, value in self._scalars.items():
            self.trainer.storage.put_scalar(name, value.item(), smoothing_hint=False)
        self._handles, self._scalars = [], {}

    @torch.no_grad()
    def _measure(self, name: str, branch: nn.Module, levels: tuple[Level, Level], output: Tensor) -> None:
        self._scalars[f"fpt/rms/{name}"] = relative_rms(output, levels[0].map)
        entropy = attention_entropy(branch, *levels, self._random) if isinstance(branch, MixtureTransformer) else None
        if entropy is not None:
            self._scalars[f"fpt/entropy/{name}"] = entropy


def named_branches(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The branches of the transforms in a model, by names such as ``"st_p2"`` and ``"gt_p2_p4"``."""
    for module in model.modules():
        if isinstance(module, PyramidTransform):
            for kind, key, _, _ in module.ends:
                yield f"{kind}_{key}", getattr(module, kind)[key]


def relative_rms(x: Tensor, y: Tensor) -> Tensor:
    """The root mean square of ``x`` over that of ``y``, two maps of one size that are zero in the padding."""
    over, under = (torch.linalg.vector_norm(t, dtype=torch.float32) for t in (x, y))
    return torch.div(over, under.clamp(min=1e-12))  # of a dead level: large, but a number


@torch.no_grad()
def attention_entropy(
    branch: MixtureTransformer, target: Level, source: Level, random: torch.Generator
) -> Tensor | None:
    """The mean entropy of the softmaxes of :data:`NUM_QUERIES` random positions, all parts, in units of ``log K``.

    Args:
        branch: of any similarity and pooling, local or global.
        target, source: what it is called with; of their first images.
        random: on the CPU.

    Returns:
        Scalar, float32, 0 to 1. None where there is a single key.
    """
    target, source = _first_image(target), _first_image(source)
    chosen = _random_positions(target, random)
    is_local = isinstance(branch, LocalGroundingTransformer)
    scores = _local_scores(branch, target, source, chosen) if is_local else _scores(branch, target, source, chosen)
    keys = scores.shape[-1]
    return None if keys < 2 else torch.special.entr(scores.softmax(-1)).sum(-1).mean() / math.log(keys)


def _first_image(level: Level) -> Level:
    valid = level.valid
    if valid is not None:
        valid = ValidSizes(valid.full, valid.tensor[:1], None if valid.numbers is None else valid.numbers[:1])
    return Level(level.map[:1], valid, stride=level.stride)


def _random_positions(level: Level, random: torch.Generator) -> Tensor:
    """Indices of valid positions."""
    mask, device = level.positions[1], level.map.device
    places = torch.arange(level.map[0, 0].numel(), device=device) if mask is None else mask[0].nonzero()[:, 0]
    return places[torch.randperm(len(places), generator=random)[:NUM_QUERIES].to(device)]


def _scores(branch: MixtureTransformer, target: Level, source: Level, chosen: Tensor) -> Tensor:
    """(1, N, Q, K), of the chosen positions and all valid keys."""
    q, k, _, _, bias, mask = branch.attention(target, source)
    scores = _dot_products(branch, q[:, chosen], k, bias)
    return scores if mask is None else scores[..., mask[0]]


def _local_scores(branch: Any, target: Level, source: Level, chosen: Tensor) -> Tensor:
    """(Q, N, 1, S S), of the chosen positions and their squares, where a place beyond the image is a key of zeros."""
    positions, mask = source.positions
    q, k = branch.query_and_key(target.positions[0][:, chosen], positions)
    if mask is not None:
        k = k.masked_fill(~mask.unsqueeze(2), 0)
    (height, width), side = target.map.shape[-2:], branch.square_size
    border = side // 2
    k = k[0].t().unflatten(1, source.map.shape[-2:])
    k = F.pad(k, (border, border + width, border, border + height))  # as far as a square can reach
    ratio = source.stride // target.stride if source.stride and target.stride else None
    ratios = (ratio, ratio) if ratio else ratio_of(target.map, source.map)
    steps = torch.arange(side, device=chosen.device)
    rows, columns = ((place // r)[:, None] + steps for place, r in zip((chosen // width, chosen % width), ratios))
    keys = k[:, rows[:, :, None], columns[:, None]].flatten(2).permute(1, 2, 0)  # (Q, S S, C)
    queries, bias, as_dot_product = q[0].unsqueeze(1), None, SIMILARITIES[branch.similarity]
    if as_dot_product is not None and branch.logit_scale is None:
        queries, keys, bias = as_dot_product(queries, keys, branch.num_parts, None)
    return _dot_products(branch, queries, keys, bias)


def _dot_products(branch: MixtureTransformer, q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """``scale (q_n . k_n + bias_n)`` of q (B, Q, C), k (B, K, C) and bias (B, N, K): (B, N, Q, K), float32."""
    with torch.autocast(q.device.type, enabled=False):
        q, k = (t.float().unflatten(2, (branch.num_parts, -1)).transpose(1, 2) for t in (q, k))
        scores = q @ k.transpose(2, 3)
        if bias is not None:
            scores = scores + bias.float().unsqueeze(2)
        return torch.mul(scores, branch.scale)
