"""The pyramid transform: every level gathers from itself, from every coarser and from every finer level (FPT paper).

Shape legend: B batch, C channels, H_n x W_n size of level n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import check_argument, one_of
from .level import Level, ValidSizes
from .transformers import (
    Branch,
    GroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
    SelfTransformer,
)

NOT_SCRIPTABLE = (
    "FPT cannot be scripted: its attention is computed in Python, image by image and in chunks, which TorchScript's "
    "language does not have. Trace it (torch.jit.trace, with Detectron2's TracingAdapter for a whole model) or take "
    "torch.export; tools/export_model.py does both. Without branches (MODEL.FPT.BRANCHES []) Detectron2's own FPN has "
    "the same weights and scripts"
)

FUSES = ("concat", "sum")

# Makes a branch from its channels; one that reads finer levels also from num_halvings, log2 of the strides' ratio.
BranchFactory = Callable[..., nn.Module]


def branch_factory(branch: BranchFactory, **options: Any) -> BranchFactory:
    """``partial(branch, **options)``, for a lazy config: there ``L(branch_factory)(branch=SelfTransformer, ...)``."""
    return partial(branch, **options)


@dataclass(frozen=True)
class Edge:
    """A branch and the two levels that it is still to be called with: ``branch(target, source)``.

    Attributes:
        ratio: stride of the target over that of the level that the branch's output becomes part of.
    """

    branch: Callable[[Level, Level], Tensor]
    target: Level
    source: Level
    ratio: int = 1


class PyramidTransform(nn.Module):
    """Branches from every level to itself (ST), to every finer (GT) and to every coarser one (RT).

    Each reads the source pyramid, never another branch's output. Whoever owns the pyramid fuses them with the levels
    (:mod:`.fusion`). Modules are keyed by level, ``st.p3``, or by target and source, ``gt.p3_p5`` and ``rt.p5_p3``.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        in_channels: int | Mapping[str, int],
        channels: int = 256,
        *,
        st: BranchFactory | None = SelfTransformer,
        gt: BranchFactory | None = GroundingTransformer,
        rt: BranchFactory | None = RenderingTransformer,
        fuse: str = "concat",
        min_stride: int = 0,
        winograd: bool = True,
        use_checkpoint: bool = False,
    ) -> None:
        """
        Args:
            strides: of every level by its name, fine to coarse, each the one before times a power of two (times one
                for levels of one size).
            in_channels: of every level, or by level.
            channels: width in which the branches compute. A level of another width goes through a 1x1 convolution.
            st, gt, rt: make the branches that read the own, a coarser and a finer level; None for no such branches.
                ``st(channels)``, ``gt(channels)``, ``rt(channels, num_halvings=n)``, and what they return is called
                as ``branch(target, source)``, see :mod:`.transformers`.
            fuse: what the fusion's convolution reads: "concat", the concatenation of a level's branches (paper), or
                "sum", at a cost that does not grow with their number.
            min_stride: a level finer than this gathers at this stride: its positions are averaged over cells before
                they are a branch's target, and every position of a cell gets what the cell has gathered. Other levels
                still read the level itself. 0: every level gathers at its own stride (paper).
            winograd: compute the 3x3 convolutions of branches and fusion by Winograd's algorithm where that is faster,
                see :mod:`.winograd`.
            use_checkpoint: compute the branches derived from :class:`.transformers.Branch` again in the backward pass,
                up to their norm, instead of keeping their activations.

        Raises:
            ValueError: channels or strides that are not allowed, or a bad value of a branch.
        """
        super().__init__()
        check_argument("channels", channels, channels > 0, "a positive number")
        check_argument("fuse", fuse, fuse in FUSES, one_of(FUSES))
        self.levels, self.channels, self.use_checkpoint = tuple(strides), channels, use_checkpoint
        self.fuse, self.min_stride, self.winograd = fuse, min_stride, winograd
        self.strides, halvings = dict(strides), _halvings(strides)
        self.ratios = _ratios(self.strides, min_stride)
        widths = in_channels if isinstance(in_channels, Mapping) else dict.fromkeys(self.levels, in_channels)
        self.reduce = nn.ModuleDict(
            {n: nn.Identity() if widths[n] == channels else nn.Conv2d(widths[n], channels, 1) for n in self.levels}
        )
        self.st, self.gt, self.rt = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        # Kind, key, target and source of each branch; a key cannot be taken apart, as a level may be called "level_2".
        self.ends: list[tuple[str, str, str, str]] = []
        for i, level in enumerate(self.levels):
            if st is not None:
                self._add("st", level, level, st(channels))
            for coarser in self.levels[i + 1 :] if gt is not None else ():
                self._add("gt", level, coarser, gt(channels))  # type: ignore[misc]
                within = not isinstance(self.gt[f"{level}_{coarser}"], LocalGroundingTransformer)
                fits = within or min_stride <= self.strides[coarser]
                check_argument("min_stride", min_stride, fits, "with a square no more than the stride of what is read")
            for finer in self.levels[:i] if rt is not None else ():
                number = halvings[level] - halvings[finer] + self.ratios[level].bit_length() - 1
                self._add("rt", level, finer, rt(channels, num_halvings=number))  # type: ignore[misc]

    def _add(self, kind: str, target: str, source: str, branch: nn.Module) -> None:
        key = target if kind == "st" else f"{target}_{source}"
        getattr(self, kind)[key] = branch
        if isinstance(branch, Branch):
            branch.recompute = self.use_checkpoint and branch.can_recompute
            branch.winograd = self.winograd
        self.ends.append((kind, key, target, source))

    def __prepare_scriptable__(self) -> nn.Module:
        raise NotImplementedError(NOT_SCRIPTABLE)

    def branches(self, level: str) -> dict[str, nn.Module]:
        """The branches of a level in the order of their concatenation, by name, such as ``"gt.p3_p5"``."""
        return {f"{kind}.{key}": getattr(self, kind)[key] for kind, key, target, _ in self.ends if target == level}

    def edges(self, features: Mapping[str, Tensor], valid: ValidSizes | None = None) -> dict[str, list[Edge]]:
        """Every branch of every level, in the order of their concatenation and not yet computed.

        The branches read the levels in their own width, with zeros in the padding.

        Args:
            features: (B, C_n, H_n, W_n) by level; of any sizes.
            valid: sizes of the images that the features come from; None where nothing is padded.
        """
        edges: dict[str, list[Edge]] = {}
        for n in self.levels:
            edges[n] = []
        levels = {n: Level.of(self.reduce[n](features[n]), valid, stride=s) for n, s in self.strides.items()}
        targets = {n: level if self.ratios[n] == 1 else level.pooled(self.ratios[n]) for n, level in levels.items()}
        for kind, key, target, source in self.ends:
            edges[target].append(Edge(getattr(self, kind)[key], targets[target], levels[source], self.ratios[target]))
        return edges

    def forward(self, features: Mapping[str, Tensor], valid: ValidSizes | None = None) -> dict[str, Tensor]:
        """
        Args:
            features, valid: see :meth:`edges`.

        Returns:
            The branches of every level that has any, zero in the padding: concatenated (B, n * channels, H_n, W_n), or
            their sum (B, channels, H_n, W_n); of a level finer than ``min_stride`` at that stride.
        """
        edges = self.edges(features, valid)
        return {n: _join([e.branch(e.target, e.source) for e in some], self.fuse) for n, some in edges.items() if some}


def _ratios(strides: Mapping[str, int], min_stride: int) -> dict[str, int]:
    """The stride at which a level gathers over its own."""
    ratios = {name: max(1, min_stride // stride) for name, stride in strides.items()}
    fits = all(
        min_stride <= s or (min_stride == r * s and r & (r - 1) == 0) for s, r in zip(strides.values(), ratios.values())
    )
    check_argument(
        "min_stride", min_stride, min_stride >= 0 and fits, "0, or the stride of a level times a power of two"
    )
    return ratios


def _join(maps: list[Tensor], how: str) -> Tensor:
    """Maps (B, C, H, W) as one: joined by "concat" or by "sum"."""
    if how == "sum":
        return reduce(torch.add, maps)
    return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)


def _halvings(strides: Mapping[str, int]) -> dict[str, int]:
    """log2 of every stride over the first one."""
    values = list(strides.values())
    ratios = [b / a for a, b in zip(values, values[1:])]
    fine = bool(values) and all(r >= 1 and math.log2(r).is_integer() for r in ratios)
    check_argument("strides", dict(strides), fine, "fine to coarse, each the one before times a power of two")
    return {name: int(math.log2(stride // values[0])) for name, stride in strides.items()}
