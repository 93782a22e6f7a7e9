"""How the branches of a level become part of it: the 3x3 convolution over the concatenation, and what follows it.

Shape legend: B batch, C channels of a level, O output channels, H_n x W_n size of level n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .level import Level, ValidSizes, is_recorded
from .plain import is_plain
from .pyramid import Edge, PyramidTransform
from .transformers import LinearGroundingTransformer, Norm
from .winograd import applies, convolve, winograd_conv3x3


class Fusion(nn.Conv2d):
    """
    The 3x3 convolution over the concatenation of a level and its branches, then norm and DropBlock (paper, assembly).

    ``norm(conv(x) + sum_i conv_i(branch_i))`` is that convolution, cut along its input channels. The part of ``x`` is
    this module's own weight, as in Detectron2's FPN, those of the branches are ``fuse``, which may start at zero. Each
    convolves as many branches as are together as wide as the output: a concatenation of all never exists, and without
    gradients no more branches than those do. With "sum" one convolution reads the sum of all branches.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        branches: Sequence[nn.Module] = (),
        *,
        branch_channels: int = 0,
        fuse: str = "concat",
        norm: nn.Module | None = None,
        zero_init: bool = True,
        drop_block: nn.Module | None = None,
        winograd: bool = False,
    ) -> None:
        """
        Args:
            branches: those that are going to be fused, ``branch_channels`` wide each; they are not kept.
            fuse: "concat" or "sum", see :class:`.pyramid.PyramidTransform`.
            norm: of the sum, which then has no bias.
            zero_init: start the convolutions of the branches at zero.
            drop_block: applied last, e.g. :class:`.drop_block.DropBlock`.
            winograd: compute the convolutions by Winograd's algorithm where that is faster, see :mod:`.winograd`.
        """
        super().__init__(in_channels, out_channels, 3, padding=1, bias=norm is None)
        nn.init.kaiming_uniform_(self.weight, a=1)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        self.joins_by = fuse
        if fuse == "sum":
            self.branch_groups = [list(range(len(branches)))] if branches else []
            widths = [branch_channels] * len(self.branch_groups)
        else:
            self.branch_groups = _groups(branches, max(1, out_channels // max(1, branch_channels)))
            widths = [len(group) * branch_channels for group in self.branch_groups]
        self.fuse = nn.ModuleList(nn.Conv2d(width, out_channels, 3, padding=1, bias=False) for width in widths)
        self._start(zero_init, widths)
        self.norm, self.drop_block, self.winograd = norm, drop_block, winograd

    @torch.no_grad()
    def _start(self, zero: bool, widths: Sequence[int]) -> None:
        """Start the convolutions of the branches as parts of one."""
        whole = torch.zeros(self.out_channels, sum(widths), 3, 3)
        if widths and not zero:
            nn.init.kaiming_uniform_(whole, a=1)
        for conv, part in zip(self.fuse, whole.split(list(widths), dim=1)):
            conv.weight.copy_(part)  # type: ignore[operator]

    def forward(self, x: Tensor, edges: Sequence[Edge] = ()) -> Tensor:
        """
        Args:
            x: (B, C, H, W).
            edges: one for each of ``branches``, as :meth:`.pyramid.PyramidTransform.edges` returns them.

        Returns:
            (B, O, H, W).
        """
        if self.winograd and applies(x, self.weight, self.bias) and is_plain(self, Fusion):
            y = winograd_conv3x3(x, self.weight, self.bias)
        else:
            y = self._conv_forward(x, self.weight, self.bias)
        affine: list[tuple[nn.Module, Edge]] = []
        for conv, group in zip(self.fuse, self.branch_groups):
            first = edges[group[0]]
            if isinstance(first.branch, LinearGroundingTransformer) and len(group) == 1 and _is_foldable(conv, first):
                affine.append((conv, first))
                continue
            maps: list[Tensor] = []
            for i in group:
                out = edges[i].branch(edges[i].target, edges[i].source)
                # Summed as they come, so that no two of them are kept.
                maps = [maps[0] + out] if maps and self.joins_by == "sum" else [*maps, out]
            joined = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
            del out, maps  # or they would outlive the convolution
            if self.winograd and first.ratio == 1:
                fused = convolve(conv, joined, add_to=y)
            else:
                fused = convolve(conv, joined) if self.winograd else conv(joined)
                y += fused if first.ratio == 1 else _enlarge(fused, first.ratio, y)
            del joined, fused
        if affine:
            fused, ratio = convolve_affine(affine, winograd=self.winograd), affine[0][1].ratio
            y += fused if ratio == 1 else _enlarge(fused, ratio, y)
        if self.norm is not None:
            y = self.norm(y)
        return y if self.drop_block is None else self.drop_block(y)


class PyramidNeck(nn.Module):
    """The pyramid transform and its fusion over the maps of any detector, in pure torch."""

    def __init__(
        self,
        transform: PyramidTransform,
        in_channels: int,
        out_channels: int,
        *,
        norm: Norm = None,
        zero_init: bool = True,
        make_drop_block: Callable[[], nn.Module] | None = None,
    ) -> None:
        """
        Args:
            transform: over the levels, with ``in_channels`` as its input channels.
            norm: makes the normalisation of every level's output from its channels; None for none.
            zero_init: start the fusion of the branches at zero: the neck starts as a 3x3 convolution of each level.
            make_drop_block: of each level's output; None for none.
        """
        super().__init__()
        self.transform, self.out_channels = transform, out_channels
        self.fusion = nn.ModuleDict(
            make_fusions(transform, transform.levels, in_channels, out_channels, norm, zero_init, make_drop_block)
        )

    def forward(self, features: Mapping[str, Tensor], valid: ValidSizes | None = None) -> dict[str, Tensor]:
        """
        Args:
            features: (B, C, H_n, W_n) by level, those of the transform.
            valid: sizes of the images within the batch that the features come from, ``ValidSizes.read(images)`` or
                ``ValidSizes.of(sizes, images)``; None where nothing is padded.

        Returns:
            (B, O, H_n, W_n) by level.
        """
        return fuse(features, valid, transform=self.transform, fusions=self.fusion)


def fuse(
    features: Mapping[str, Tensor],
    valid: ValidSizes | None,
    *,
    transform: PyramidTransform | None,
    fusions: Mapping[str, nn.Module] | nn.ModuleDict,
) -> dict[str, Tensor]:
    """The whole neck behind a source pyramid: what :class:`PyramidNeck` and the backbones compute."""
    edges = {} if transform is None else transform.edges(features, valid)
    outputs = {}
    for name, fusion in fusions.items():
        outputs[name] = fusion(features[name], edges.get(name, ()))
    return outputs


def make_fusions(
    transform: PyramidTransform | None,
    levels: Sequence[str],
    in_channels: int,
    out_channels: int,
    norm: Norm,
    zero_init: bool,
    make_drop_block: Callable[[], nn.Module] | None,
) -> dict[str, Fusion]:
    """A :class:`Fusion` for every level, by name; arguments as for :class:`PyramidNeck`."""
    return {
        n: Fusion(
            in_channels,
            out_channels,
            [] if transform is None else list(transform.branches(n).values()),
            branch_channels=0 if transform is None else transform.channels,
            fuse="concat" if transform is None else transform.fuse,
            norm=None if norm is None else norm(out_channels),
            zero_init=zero_init,
            drop_block=None if make_drop_block is None else make_drop_block(),
            winograd=transform is not None and transform.winograd,
        )
        for n in levels
    }


def _groups(branches: Sequence[nn.Module], side_by_side: int) -> list[list[int]]:
    """Which branches enter one convolution together: in order, as many as fit; those that may be folded alone."""
    groups: list[list[int]] = []
    is_open = False
    for i, branch in enumerate(branches):
        alone = isinstance(branch, LinearGroundingTransformer)
        if alone or not is_open or len(groups[-1]) == side_by_side:
            groups.append([])
        groups[-1].append(i)
        is_open = not alone
    return groups


def _enlarge(x: Tensor, ratio: int, like: Tensor) -> Tensor:
    """Each position of (B, O, h, w) repeated in ``ratio`` x ``ratio`` places, as far as a map (B, O, H, W) has them.

    Not interpolated: between the last valid position and the padding a blend would depend on the padding.
    """
    return F.interpolate(x, scale_factor=float(ratio), mode="nearest")[..., : like.shape[2], : like.shape[3]]


def _is_foldable(conv: nn.Module, edge: Edge) -> bool:
    """Whether a branch need not be computed, because it is an affine map that fits into the convolution's weight.

    Then neither module is called.
    """
    branch = edge.branch
    if not isinstance(branch, LinearGroundingTransformer) or branch.norm is not None:
        return False
    if is_recorded() or edge.target.map.shape[0] == 0:  # a convolution for each image would fix their number in a graph
        return False
    parts = all(is_plain(m, nn.Conv2d, nn.Linear, LinearGroundingTransformer) for m in branch.modules())
    return parts and is_plain(conv, nn.Conv2d)


def convolve_affine(folded: Sequence[tuple[nn.Module, Edge]], *, winograd: bool = False) -> Tensor:
    """The sum of the 3x3 convolutions of affine branches of one target as one convolution of that target.

    A branch ``x M + c`` (M a matrix of channels, c an offset, of each image its own) under a convolution with weight W
    is a convolution of ``x`` with ``W M``, and one of ones with ``W c``.

    Args:
        folded: of each the convolution, of a weight (O, C, 3, 3), and its edge, a linear grounding.
        winograd: allow Winograd's algorithm.

    Returns:
        (B, O, H, W).
    """
    target: Level = folded[0][1].target
    x = target.map
    weight, offset = torch.zeros((), device=x.device), torch.zeros((), device=x.device)
    for conv, edge in folded:
        assert isinstance(conv, nn.Conv2d) and isinstance(edge.branch, LinearGroundingTransformer)
        matrix, constant = edge.branch.as_affine(edge.source)  # whose linear layers autocast serves
        conv_weight = conv.weight.to(matrix.dtype)
        with torch.autocast(x.device.type, enabled=False):
            weight = weight + torch.einsum("oihw,bji->bojhw", conv_weight, matrix)
            offset = offset + torch.einsum("oihw,bi->bohw", conv_weight, constant)
    # The offset ends with the image, or it would be missing from the zeros around a convolution's input.
    valid = torch.ones_like(x[:, :1]) if target.mask is None else target.mask.to(x.dtype)
    return _convolve_each(x, weight, winograd) + _convolve_each(valid, offset.unsqueeze(2), False)


def _convolve_each(x: Tensor, weight: Tensor, winograd: bool) -> Tensor:
    """A 3x3 convolution with weights of its own for each image: (B, C, H, W), (B, O, C, 3, 3) -> (B, O, H, W)."""
    batch, weight = x.shape[0], weight.to(x.dtype)
    if winograd and applies(x, weight[0]):
        return torch.cat([winograd_conv3x3(image, own) for image, own in zip(x.split(1), weight)])
    out = F.conv2d(x.flatten(0, 1).unsqueeze(0), weight.flatten(0, 1), padding=1, groups=batch)
    return out.squeeze(0).unflatten(0, (batch, -1))  # type: ignore[no-any-return]
