"""What a place of an image, or a detected object, gathers through FPT: from where, by which branch, how much.

Shape legend: N parts of a mixture, O channels of a level's output, h x w source map of an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from torch import Tensor, nn

from ..core import Fusion, Level, PyramidTransform
from ..core.pyramid import Edge
from ..core.transformers import MixtureTransformer
from ..core.weights import attention_weights, first_image
from ..errors import UserError

# A large object is asked at so many rows and columns, evenly spaced.
MAX_ROWS = 8


@dataclass(frozen=True)
class Gathered:
    """What one branch brings to the place that is asked about.

    Attributes:
        kind: "st", "gt" or "rt".
        source: the level that is read.
        share: how large this branch's part in the level's output is, beside the other branches and the level itself,
            before norm and bias. All shares sum to one. With ``MODEL.FPT.ST_RESIDUAL`` that of ST holds what it adds
            of the level itself.
        map: (h, w), how much each position of the source contributes. For a branch with softmaxes this is its
            attention, exact: the mean over the positions asked about, the parts mixed by their gate. With ``beyond`` it
            sums to one. For any other branch it is the absolute value of the source times the gradient of the
            branch's output in its own direction, brought to a sum of one; zeros where the branch puts out nothing.
        parts: (N, h, w), the attention of each softmax; None for a branch without softmaxes.
        gate: (N,), their weights; None for a branch without softmaxes.
        entropy: of the softmaxes, mean, from 0 (one key has all) to 1 (all alike); None for a branch without softmaxes,
            or with a single key.
    """

    kind: str
    source: str
    share: float
    map: Tensor
    parts: Tensor | None = None
    gate: Tensor | None = None
    entropy: float | None = None

    @property
    def name(self) -> str:
        """Such as "GT from p4"."""
        return f"{self.kind.upper()} from {self.source}"

    @property
    def beyond(self) -> float:
        """The attention on zeros beyond the image, which only the squares of locality-constrained grounding read."""
        return 0.0 if self.parts is None else max(0.0, 1 - float(self.map.sum()))


@dataclass(frozen=True)
class Exploration:
    """What the positions of a level gather, by branch.

    Attributes:
        level: whose positions were asked about.
        own_share: the level's own part in its output.
        gathered: of each branch of the level, in the order of their concatenation.
        size: (height, width) of the image within each source map, by level, in positions.
    """

    level: str
    own_share: float
    gathered: list[Gathered]
    size: dict[str, tuple[float, float]]


@torch.no_grad()
def explore(predictor: Any, image: np.ndarray, box: Sequence[float], *, level: str | None = None) -> Exploration:
    """Ask what the positions of a level within a box gather from each position of each level.

    Sliding windows and test-time augmentation are left out: the model sees the image once, whole. Where it has several
    transforms, the first one is asked.

    Args:
        predictor: a ``DefaultPredictor`` of a model with FPT.
        image: (H, W, 3) uint8 BGR.
        box: x1, y1, x2, y2 in pixels of the image; a point is a box without extent.
        level: such as "p3". None: the level from which Detectron2's box head pools such a box; for a point, or a model
            without that head, the finest that a branch writes to.

    Raises:
        UserError: a model without branches, or without that level.
    """
    model = _without_wrappers(predictor.model)
    inputs, scale = _inputs(predictor, image)
    scaled = [value * factor for value, factor in zip(box, (*scale, *scale))]
    transform = _transform(model)
    level = level or _pooled_level(model, transform, scaled)
    if level not in transform.levels:
        raise UserError(f"There is no level {level!r}; FPT's levels are {', '.join(transform.levels)}")
    if level not in (written := _written_by(transform)):
        raise UserError(
            f"No branch of FPT writes to {level}; those of MODEL.FPT.BRANCHES write to {', '.join(written)}"
        )
    fusion, x, edges = _seen(model, transform, level, inputs)
    return _explore_level(fusion, x, edges, transform, level, scaled, inputs["image"].shape[1:])


def _inputs(predictor: Any, image: np.ndarray) -> tuple[dict[str, Any], tuple[float, float]]:
    """As Detectron2's predictor makes them, and how much wider and higher they are."""
    height, width = image.shape[:2]
    ordered = image[:, :, ::-1] if predictor.input_format == "RGB" else image
    resized = predictor.aug.get_transform(ordered).apply_image(ordered)
    tensor = torch.as_tensor(np.ascontiguousarray(resized.astype("float32").transpose(2, 0, 1)))
    inputs = {"image": tensor, "height": height, "width": width}
    return inputs, (resized.shape[1] / width, resized.shape[0] / height)


def _without_wrappers(model: nn.Module) -> nn.Module:
    """Without sliding windows and test-time augmentation, which see the image in pieces or changed."""
    while isinstance(inner := getattr(model, "model", None), nn.Module):
        model = inner
    return model


def written_levels(model: nn.Module) -> list[str]:
    """The levels that :func:`explore` can be asked about, finest first; none of a model without branches."""
    transform = _find_transform(model)
    return _written_by(transform) if transform else []


def _transform(model: nn.Module) -> PyramidTransform:
    if transform := _find_transform(model):
        return transform
    raise UserError("The model has no branches to explore: MODEL.FPT.BRANCHES is empty, or the backbone is not FPT")


def _find_transform(model: nn.Module) -> PyramidTransform | None:
    """The first one with branches."""
    transforms = (module for module in model.modules() if isinstance(module, PyramidTransform))
    return next((transform for transform in transforms if transform.ends), None)


def _written_by(transform: PyramidTransform) -> list[str]:
    targets = {target for _, _, target, _ in transform.ends}
    return [level for level in transform.levels if level in targets]


def _pooled_level(model: nn.Module, transform: PyramidTransform, box: Sequence[float]) -> str:
    levels = _written_by(transform)
    pooler = getattr(getattr(model, "roi_heads", None), "box_pooler", None)
    if isinstance(pooler, ROIPooler) and box[2] > box[0] and box[3] > box[1]:
        of_box = assign_boxes_to_levels(
            [Boxes(torch.tensor([list(box)]))],
            pooler.min_level,
            pooler.max_level,
            pooler.canonical_box_size,
            pooler.canonical_level,
        )
        stride = 2 ** (pooler.min_level + int(of_box))
        if found := [name for name in levels if transform.strides[name] >= stride]:
            return found[0]
        return levels[-1]
    return levels[0]


class _Found(Exception):
    """Ends a forward of the model once what is asked for has been seen."""


def _seen(
    model: nn.Module, transform: PyramidTransform, level: str, inputs: dict[str, Any]
) -> tuple[Fusion, Tensor, Sequence[Edge]]:
    """What fuses a level, and what it is called with in a forward of the model."""
    branches = set(map(id, transform.branches(level).values()))
    calls: list[tuple[Fusion, Tensor, Sequence[Edge]]] = []

    def look(fusion: nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(fusion, Fusion) and any(id(edge.branch) in branches for edge in arguments[1]):
            calls.append((fusion, *arguments))
            raise _Found

    handles = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, Fusion)]
    try:
        with suppress(_Found):
            model.eval()([inputs])
    finally:
        for handle in handles:
            handle.remove()
    return calls[0]


def _explore_level(
    fusion: Fusion,
    x: Tensor,
    edges: Sequence[Edge],
    transform: PyramidTransform,
    level: str,
    box: Sequence[float],
    size: Sequence[int],
) -> Exploration:
    chosen = _positions(box, transform.strides[level], x.shape[-2:], size).to(x.device)
    own = _strength(F.conv2d(x[:1], fusion.weight, padding=1), chosen)
    chosen = _cells(chosen, edges[0].ratio, x.shape[-1], edges[0].target.map.shape[-1])
    ends = [(kind, source) for kind, _, target, source in transform.ends if target == level]
    convs = {
        i: (conv, place) for conv, group in zip(fusion.fuse, fusion.branch_groups) for place, i in enumerate(group)
    }
    strengths, gathered = [], []
    for i, edge in enumerate(edges):
        target, source = first_image(edge.target), first_image(edge.source)
        out = edge.branch(target, source)
        conv, place = convs[i]
        width = out.shape[1]
        weight: Tensor = conv.get_parameter("weight")
        if fusion.joins_by == "concat":
            weight = weight[:, place * width : (place + 1) * width]
        strengths.append(_strength(F.conv2d(out, weight, padding=1), chosen))
        gathered.append(_gather(edge.branch, target, source, out, chosen))
    total = max(own + sum(strengths), 1e-12)
    return Exploration(
        level,
        own / total,
        [Gathered(*end, strength / total, **what) for end, strength, what in zip(ends, strengths, gathered)],
        {name: (size[0] / transform.strides[name], size[1] / transform.strides[name]) for _, name in ends},
    )


def _positions(box: Sequence[float], stride: int, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Indices of the positions of a map whose centres are in the box; at least of the one nearest to its centre."""
    rows = _along(box[1], box[3], stride, min(int(shape[0]), -(-int(size[0]) // stride)))
    columns = _along(box[0], box[2], stride, min(int(shape[1]), -(-int(size[1]) // stride)))
    return (rows[:, None] * int(shape[1]) + columns).flatten()


def _cells(chosen: Tensor, ratio: int, width: int, cells: int) -> Tensor:
    """Where a level gathers, which may be at a coarser stride than its own: the cell of each chosen position, one as
    often as it has such positions, since each of them gets what the cell has gathered."""
    return chosen // width // ratio * cells + chosen % width // ratio


def _along(low: float, high: float, stride: int, count: int) -> Tensor:
    """Which of ``count`` positions, :data:`MAX_ROWS` at most."""
    centres = (torch.arange(count) + 0.5) * stride
    inside = ((low <= centres) & (centres <= high)).nonzero()[:, 0]
    if not len(inside):
        inside = (centres - (low + high) / 2).abs().argmin()[None]
    return inside[torch.linspace(0, len(inside) - 1, min(len(inside), MAX_ROWS)).long()]


def _strength(x: Tensor, chosen: Tensor) -> float:
    """The mean length of the vectors at the chosen positions of (1, O, H, W)."""
    return float(torch.linalg.vector_norm(x[0].flatten(1)[:, chosen].float(), dim=0).mean().item())


def _gather(
    branch: Callable[[Level, Level], Tensor], target: Level, source: Level, out: Tensor, chosen: Tensor
) -> dict[str, Any]:
    """The fields of :class:`Gathered` that need the maps."""
    if not isinstance(branch, MixtureTransformer):
        return {"map": _attributed(branch, target, source, out, chosen)}
    weights = attention_weights(branch, target, source, chosen)
    parts, gate, entropy = weights.maps().cpu(), weights.gate.cpu(), weights.entropy()
    return {
        "map": torch.einsum("n,nhw->hw", gate, parts),
        "parts": parts,
        "gate": gate,
        "entropy": None if entropy is None else float((entropy * weights.gate).sum(-1).mean().item()),
    }


@torch.enable_grad()
def _attributed(
    branch: Callable[[Level, Level], Tensor], target: Level, source: Level, out: Tensor, chosen: Tensor
) -> Tensor:
    direction = out.new_zeros(out.shape)
    direction.flatten(2).index_add_(2, chosen, F.normalize(out.detach().flatten(2)[..., chosen], dim=1))
    leaf = source.map.detach().requires_grad_()
    again = branch(target.again(), Level(leaf, source.valid, stride=source.stride))
    gradient = None
    if again.requires_grad:
        (gradient,) = torch.autograd.grad(again, leaf, direction, allow_unused=True)
    if gradient is None:  # it does not read the source
        return torch.zeros(leaf.shape[-2:])
    product = (gradient * leaf.detach())[0].float().sum(0).abs().cpu()
    return product / product.sum().clamp(min=1e-12)
