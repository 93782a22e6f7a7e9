"""The pyramid transform: every level gathers from itself, from every coarser and from every finer level (FPT paper).

Shape legend: B batch, C channels, H_n x W_n size of level n. A mask is (B, H, W) bool, False in the padding.
"""

import math
from typing import Dict, Iterator, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .padding import apply_mask
from .transformers import GroundingTransformer, Norm, RenderingTransformer, SelfTransformer

BRANCHES = ("st", "gt", "rt")


class PyramidTransform(nn.Module):
    """ST of every level, GT from every coarser and RT from every finer one, each reading the source pyramid.

    The branches of a level are concatenated; whoever owns the pyramid fuses them with the level itself. Modules are
    keyed by level, ``st.p3``, or by target and source, ``gt.p3_p5`` and ``rt.p5_p3``.
    """

    def __init__(
        self,
        strides: Mapping[str, int],
        in_channels: Union[int, Mapping[str, int]],
        *,
        channels: int = 256,
        branches: Sequence[str] = BRANCHES,
        st_num_parts: int = 2,
        gt_num_parts: int = 4,
        gt_similarity: str = "euclidean",
        gt_square_size: int = 0,
        rt_final_conv: bool = True,
        kv_stride: int = 1,
        max_kv_tokens: int = 0,
        norm: Norm = None,
        impl: str = "auto",
        use_checkpoint: bool = False,
    ) -> None:
        """
        Args:
            strides: of every level by its name, fine to coarse, each the one before times a power of two (times one
                for levels of one size).
            in_channels: of every level, or by level.
            channels: width in which the branches compute. A level of another width goes through a 1x1 convolution.
            branches: those that are on, of "st", "gt" and "rt".
            st_num_parts, gt_num_parts, gt_similarity, gt_square_size, kv_stride, max_kv_tokens, norm, impl: see
                :class:`.transformers.SelfTransformer` and :class:`.transformers.GroundingTransformer`; the grounding
                within squares keeps every key.
            rt_final_conv: see :class:`.transformers.RenderingTransformer`.
            use_checkpoint: compute a branch again in the backward pass instead of keeping its activations.

        Raises:
            ValueError: unknown branch, strides that do not ascend by powers of two, or a bad value of a branch.
        """
        super().__init__()
        unknown = [b for b in branches if b not in BRANCHES]
        if unknown or len(set(branches)) != len(branches):
            raise ValueError(f"branches are {list(branches)}; allowed: each of {list(BRANCHES)} at most once")
        self.levels, self.channels, self.use_checkpoint = tuple(strides), channels, use_checkpoint
        halvings = _halvings(strides)
        widths = in_channels if isinstance(in_channels, Mapping) else dict.fromkeys(self.levels, in_channels)
        self.reduce = nn.ModuleDict(
            {n: nn.Identity() if widths[n] == channels else nn.Conv2d(widths[n], channels, 1) for n in self.levels}
        )
        pooling = {"kv_stride": kv_stride, "max_kv_tokens": max_kv_tokens}
        self.st, self.gt, self.rt = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for i, level in enumerate(self.levels):
            if "st" in branches:
                self.st[level] = SelfTransformer(channels, num_parts=st_num_parts, norm=norm, impl=impl, **pooling)
            for coarser in self.levels[i + 1 :] if "gt" in branches else ():
                self.gt[f"{level}_{coarser}"] = GroundingTransformer(
                    channels,
                    num_parts=gt_num_parts,
                    similarity=gt_similarity,
                    square_size=gt_square_size,
                    norm=norm,
                    impl=impl,
                    **({} if gt_square_size else pooling),
                )
            for finer in self.levels[:i] if "rt" in branches else ():
                self.rt[f"{level}_{finer}"] = RenderingTransformer(
                    channels, num_halvings=halvings[level] - halvings[finer], final_conv=rt_final_conv, norm=norm
                )

    def out_channels(self, level: str) -> int:
        """Channels of the concatenated branches of ``level``; 0 where it has none."""
        return self.channels * sum(
            name.split("_")[0] == level for branches in (self.st, self.gt, self.rt) for name in branches
        )

    def source(self, features: Mapping[str, Tensor], masks: Optional[Mapping[str, Tensor]] = None) -> Dict[str, Tensor]:
        """The maps that the branches read: in the branches' width, with zeros in the padding.

        Args:
            features: (B, C_n, H_n, W_n) by level. masks: (B, H_n, W_n) by level, or None.
        """
        return {n: apply_mask(self.reduce[n](features[n]), None if masks is None else masks[n]) for n in self.levels}

    def forward(
        self, features: Mapping[str, Tensor], masks: Optional[Mapping[str, Tensor]] = None
    ) -> Dict[str, Tensor]:
        """
        Args:
            features: (B, C_n, H_n, W_n) by level; of any sizes.
            masks: (B, H_n, W_n) bool by level, or None where there is no padding.

        Returns:
            The concatenated branches (B, out_channels(n), H_n, W_n) of every level that has any.
        """
        source = self.source(features, masks)
        outputs = {}
        for n in self.levels:
            branches = [self._run(branch, names, source, masks) for branch, names in self._edges(n)]
            if branches:
                outputs[n] = torch.cat(branches, dim=1)
        return outputs

    def add_fused(
        self,
        y: Tensor,
        weight: Tensor,
        level: str,
        source: Mapping[str, Tensor],
        masks: Optional[Mapping[str, Tensor]] = None,
    ) -> Tensor:
        """Add the 3x3 convolution of the concatenated branches of ``level`` to ``y``, in place.

        Only as many branches exist at once as are together as wide as the output: one of the paper's width, which takes
        half the memory of a concatenation of all and no more time. Groundings that are affine maps of the level are
        never computed at all: they go into the weight.

        Args:
            y: (B, O, H_n, W_n). weight: (O, out_channels(n), 3, 3).
            source: what :meth:`source` returned. masks: as for :meth:`forward`.

        Returns:
            ``y``.
        """
        affine, others = [], []
        for (branch, names), part in zip(self._edges(level), weight.split(self.channels, dim=1)):
            if isinstance(branch, GroundingTransformer) and branch.is_affine:
                coarse = names[1]
                affine.append((part, *branch.as_affine(source[coarse], None if masks is None else masks[coarse])))
            else:
                others.append((branch, names, part))
        side_by_side = max(1, weight.shape[0] // self.channels)
        for start in range(0, len(others), side_by_side):
            branches, names, parts = zip(*others[start : start + side_by_side])
            # Not kept in a variable, which would outlive the convolution.
            y += F.conv2d(
                _concat([self._run(*edge, source, masks) for edge in zip(branches, names)]), _concat(parts), padding=1
            )
        if affine:
            y += _convolve_affine(source[level], None if masks is None else masks[level], affine)
        return y

    def _edges(self, level: str) -> Iterator[Tuple[nn.Module, Tuple[str, ...]]]:
        """The branches of a level in their order, each with the levels whose maps it takes."""
        for coarse in self.levels:
            if level == coarse and level in self.st:
                yield self.st[level], (level,)
            if (edge := f"{level}_{coarse}") in self.gt:
                yield self.gt[edge], (level, coarse)
        for fine in self.levels:
            if (edge := f"{level}_{fine}") in self.rt:
                yield self.rt[edge], (level, fine)

    def _run(
        self,
        branch: nn.Module,
        names: Sequence[str],
        source: Mapping[str, Tensor],
        masks: Optional[Mapping[str, Tensor]],
    ) -> Tensor:
        """(B, channels, H, W), with zeros in the padding."""
        mask = dict.fromkeys(self.levels) if masks is None else masks
        # Attention asks where keys are; only rendering needs to know of its target too.
        masked = names if isinstance(branch, RenderingTransformer) else names[-1:]
        inputs = [*(source[n] for n in names), *(mask[n] for n in masked)]
        if self.use_checkpoint and torch.is_grad_enabled():
            out: Tensor = checkpoint(branch, *inputs, use_reentrant=False)
        else:
            out = branch(*inputs)
        return apply_mask(out, mask[names[0]])


def _concat(maps: Sequence[Tensor]) -> Tensor:
    """Side by side in their channels; a single one as it is, which ``torch.cat`` would copy."""
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), dim=1)


def _convolve_affine(x: Tensor, mask: Optional[Tensor], maps: Sequence[Tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """The sum of the 3x3 convolutions of affine maps of ``x`` as one: a matrix of channels fits into its weight.

    Args:
        x: (B, C, H, W), zero in the padding of ``mask``, (B, H, W) or None.
        maps: of each the convolution's weight (O, C, 3, 3), matrix (B, C, C) and offset (B, C).
    """
    with torch.autocast(x.device.type, enabled=False):
        weight = torch.stack([torch.einsum("oihw,bji->bojhw", w.to(m.dtype), m) for w, m, _ in maps]).sum(0)
        offset = torch.stack([torch.einsum("oihw,bi->bohw", w.to(c.dtype), c) for w, _, c in maps]).sum(0)
    # The offset ends with the image, or it would be missing from the zeros around a convolution's input.
    valid = torch.ones_like(x[:, :1]) if mask is None else mask.unsqueeze(1).to(x.dtype)
    return _convolve_each(x, weight) + _convolve_each(valid, offset.unsqueeze(2))


def _convolve_each(x: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution with weights of its own for each image: (B, C, H, W), (B, O, C, 3, 3) -> (B, O, H, W)."""
    batch = x.shape[0]
    weight = weight.to(x.dtype).flatten(0, 1)
    out = F.conv2d(x.flatten(0, 1).unsqueeze(0), weight, padding=1, groups=batch)
    return out.squeeze(0).unflatten(0, (batch, -1))


def _halvings(strides: Mapping[str, int]) -> Dict[str, int]:
    """log2 of every stride over the first one."""
    values = list(strides.values())
    ratios = [b / a for a, b in zip(values, values[1:])]
    if not values or any(r < 1 or not math.log2(r).is_integer() for r in ratios):
        raise ValueError(f"strides are {dict(strides)}; they must ascend, fine to coarse, by powers of two")
    return {name: int(math.log2(stride // values[0])) for name, stride in strides.items()}
