"""Scalars of what the branches do, ``MODEL.FPT.LOG_ATTENTION``: how sharp they attend, and how much they say.

``fpt/entropy/gt_p2_p4`` is the entropy of the softmaxes by which p2 attends to p4, from 0 (a single key) to 1 (the mean
of all keys). ``fpt/rms/gt_p2_p4`` is the root mean square of that branch's output over that of p2 as it reads it. One
that is dead has an rms of 0, one that is stuck an entropy that stays at 1 or falls to 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from ..core import Level, PyramidTransform
from ..core.transformers import MixtureTransformer
from ..core.weights import attention_weights, first_image

# Of the detector's writers, which then write what is new.
PERIOD = 20
# Random positions of the first image of a batch whose softmaxes are computed for the entropy.
NUM_QUERIES = 64


class AttentionLog(HookBase):
    """Measures the branches of a model in every 20th iteration and in the last one; in the others it does nothing."""

    def __init__(self) -> None:
        self._random = torch.Generator()  # its own: a training is the same with and without it
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._scalars: dict[str, Tensor] = {}

    def before_step(self) -> None:
        last = self.trainer.iter + 1
        if last % PERIOD == 0 or last == self.trainer.max_iter:
            self._random.manual_seed(last)
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
    target = first_image(target)
    entropy = attention_weights(branch, target, source, _random_positions(target, random)).entropy()
    return None if entropy is None else entropy.mean()


def _random_positions(level: Level, random: torch.Generator) -> Tensor:
    """Indices of valid positions."""
    mask, device = level.positions[1], level.map.device
    places = torch.arange(level.map[0, 0].numel(), device=device) if mask is None else mask[0].nonzero()[:, 0]
    return places[torch.randperm(len(places), generator=random)[:NUM_QUERIES].to(device)]
