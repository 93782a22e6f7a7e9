"""What a place of an image, or a detected object, gathers through FPT: from where, by which branch, how much.

Shape legend: N parts of a mixture, O channels of a level's output, h x w source map of an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.structures import Boxes
from PIL import Image
from torch import Tensor, nn

from ..core import Fusion, Level, PyramidTransform
from ..core.pyramid import Edge
from ..core.transformers import MixtureTransformer
from ..core.weights import Weights, attention_weights, first_image
from ..errors import UserError

# Of a large object so many rows and columns are asked about, evenly spaced.
MAX_ROWS = 8
# Width of the image in a picture, in pixels.
_PANEL = 420


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
            attention, exact: the mean over the positions asked about, the parts mixed by their gate. It sums to one,
            less what falls beyond the image in locality-constrained grounding. For any other branch it is the absolute
            value of the source times the gradient of the branch's output in its own direction, brought to a sum of
            one; zeros where the branch puts out nothing.
        parts: (N, h, w), the attention of each softmax; None for a branch without softmaxes.
        gate: (N,), their weights; None for a branch without softmaxes.
        entropy: of the softmaxes, mean, from 0 (a single key) to 1 (all alike); None for a branch without
            softmaxes.
    """

    kind: str
    source: str
    share: float
    map: Tensor
    parts: Tensor | None = None
    gate: Tensor | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Exploration:
    """
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
    if level not in (written := _written(transform)):
        raise UserError(
            f"No branch of FPT writes to {level}; those of MODEL.FPT.BRANCHES write to {', '.join(written)}"
        )
    found: list[Exploration] = []
    with _watch(model, transform, level, scaled, inputs["image"].shape[1:], found), torch.no_grad():
        model.eval()([inputs])
    return found[0]


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


def _transform(model: nn.Module) -> PyramidTransform:
    for module in model.modules():
        if isinstance(module, PyramidTransform) and module.ends:
            return module
    raise UserError("The model has no branches to explore: MODEL.FPT.BRANCHES is empty, or the backbone is not FPT")


def _written(transform: PyramidTransform) -> list[str]:
    """The levels that a branch writes to."""
    targets = {target for _, _, target, _ in transform.ends}
    return [level for level in transform.levels if level in targets]


def _pooled_level(model: nn.Module, transform: PyramidTransform, box: Sequence[float]) -> str:
    levels = _written(transform)
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


@contextmanager
def _watch(
    model: nn.Module,
    transform: PyramidTransform,
    level: str,
    box: Sequence[float],
    size: Sequence[int],
    found: list[Exploration],
) -> Iterator[None]:
    """Within it, every forward of the model adds what the level's positions gathered."""
    ends = {
        id(getattr(transform, kind)[key]): (kind, source)
        for kind, key, target, source in transform.ends
        if target == level
    }

    def look(fusion: nn.Module, arguments: tuple[Any, ...]) -> None:
        edges = arguments[1] if len(arguments) > 1 else ()
        if isinstance(fusion, Fusion) and edges and id(edges[0].branch) in ends:
            found.append(_explore_level(fusion, arguments[0], edges, ends, level, box, size))

    handles = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, Fusion)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _explore_level(
    fusion: Fusion,
    x: Tensor,
    edges: Sequence[Edge],
    ends: dict[int, tuple[str, str]],
    level: str,
    box: Sequence[float],
    size: Sequence[int],
) -> Exploration:
    stride = edges[0].target.stride or 1
    chosen = _positions(box, stride, x.shape[-2:], size)
    own = _strength(F.conv2d(x[:1], fusion.weight, padding=1), chosen)
    strengths, gathered = [], []
    convs = {
        i: (conv, place) for conv, group in zip(fusion.fuse, fusion.branch_groups) for place, i in enumerate(group)
    }
    for i, edge in enumerate(edges):
        target, source = first_image(edge.target), first_image(edge.source)
        out = edge.branch(target, source)
        conv, place = convs[i]
        width = out.shape[1]
        weight = conv.get_parameter("weight")[:, place * width : (place + 1) * width]
        strengths.append(_strength(F.conv2d(out, weight, padding=1), chosen))
        gathered.append(_gather(*ends[id(edge.branch)], edge.branch, target, source, out, chosen))
    total = own + sum(strengths)
    total = total if total > 0 else 1.0
    levels = {ends[id(edge.branch)][1]: edge.source for edge in edges}
    return Exploration(
        level,
        own / total,
        [Gathered(share=strength / total, **what) for strength, what in zip(strengths, gathered)],
        {name: (size[0] / (of.stride or 1), size[1] / (of.stride or 1)) for name, of in levels.items()},
    )


def _positions(box: Sequence[float], stride: int, shape: Sequence[int], size: Sequence[int]) -> Tensor:
    """Indices of the positions whose centres are in the box; at least the one that holds its centre."""
    x1, y1, x2, y2 = box
    ranges = []
    for low, high, length, pixels in ((y1, y2, shape[0], size[0]), (x1, x2, shape[1], size[1])):
        last = min(length, -(-int(pixels) // stride)) - 1
        inside = [i for i in range(last + 1) if low <= (i + 0.5) * stride <= high]
        ranges.append(inside or [min(max(int((low + high) / 2 / stride), 0), last)])
        ranges[-1] = [
            ranges[-1][i] for i in np.linspace(0, len(ranges[-1]) - 1, min(len(ranges[-1]), MAX_ROWS)).astype(int)
        ]
    return torch.tensor([row * int(shape[1]) + column for row in ranges[0] for column in ranges[1]])


def _strength(x: Tensor, chosen: Tensor) -> float:
    """The mean length of the vectors at the chosen positions of (1, O, H, W)."""
    return float(torch.linalg.vector_norm(x[0].flatten(1)[:, chosen.to(x.device)].float(), dim=0).mean().item())


def _gather(
    kind: str,
    name: str,
    branch: Callable[[Level, Level], Tensor],
    target: Level,
    source: Level,
    out: Tensor,
    chosen: Tensor,
) -> dict[str, Any]:
    """The fields of :class:`Gathered` but the share."""
    chosen = chosen.to(out.device)
    if not isinstance(branch, MixtureTransformer):
        return {"kind": kind, "source": name, "map": _attributed(branch, target, source, out, chosen)}
    weights = attention_weights(branch, target, source, chosen)
    mixed = torch.einsum("n,nhw->hw", weights.gate, weights.maps)
    parts, gate = weights.maps.cpu(), weights.gate.cpu()
    entropy = _entropy(weights)
    return {"kind": kind, "source": name, "map": mixed.cpu(), "parts": parts, "gate": gate, "entropy": entropy}


def _entropy(weights: Weights) -> float:
    keys = weights.parts.shape[-1]
    each = torch.special.entr(weights.parts).sum(-1) / np.log(max(keys, 2))  # (Q, N)
    return float((each * weights.gate).sum(-1).mean().item())


@torch.enable_grad()
def _attributed(
    branch: Callable[[Level, Level], Tensor], target: Level, source: Level, out: Tensor, chosen: Tensor
) -> Tensor:
    direction = out.new_zeros(out.shape)
    direction.flatten(2)[..., chosen] = F.normalize(out.detach().flatten(2)[..., chosen], dim=1)
    leaf = source.map.detach().requires_grad_()
    again = branch(target.again(), Level(leaf, source.valid, stride=source.stride))
    gradient = None
    if again.requires_grad:
        (gradient,) = torch.autograd.grad(again, leaf, direction, allow_unused=True)
    if gradient is None:  # it does not read the source
        return torch.zeros(leaf.shape[-2:])
    product = (gradient * leaf.detach())[0].float().sum(0).abs().cpu()
    return product / product.sum().clamp(min=1e-12)


def draw_exploration(
    image: np.ndarray, box: Sequence[float], exploration: Exploration, path: str | Path, *, title: str = ""
) -> None:
    """Write a picture: the image with the place, one map for each source level, and the shares as bars.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: x1, y1, x2, y2, what was asked about.
        path: its folder is made if needed.
        title: of what was asked about, e.g. the object's class.
    """
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    image, box = _small(image, box)
    height, width = image.shape[:2]
    panels = len(exploration.gathered) + 2
    columns = 3 if width < 2 * height else 2
    rows = -(-panels // columns)
    figure: Figure = plt.figure(
        figsize=(columns * _PANEL / 100, rows * (_PANEL / 100 * height / width + 0.35)), dpi=100
    )
    figure.set_layout_engine("constrained")
    try:
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[panels:]:
            axis.set_axis_off()
        x1, y1, x2, y2 = box
        for axis, gathered in zip(axes, [None, *exploration.gathered]):
            axis.set_axis_off()
            if gathered is None:
                axis.imshow(image)
                heading = f"{title or 'the place'}, level {exploration.level}"
            else:
                axis.imshow(_heated(image, gathered.map, exploration.size[gathered.source]))
                heading = f"{_name(gathered)}: {gathered.share:.0%}"
                if gathered.entropy is not None:
                    heading += f", entropy {gathered.entropy:.2f}"
            axis.set_title(heading, fontsize=9, loc="left")
            if x2 > x1 and y2 > y1:
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=2.5))
                axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#d55e00", linewidth=1.2))
            else:
                axis.plot([x1], [y1], marker="+", color="white", markersize=13, markeredgewidth=4)
                axis.plot([x1], [y1], marker="+", color="#d55e00", markersize=12, markeredgewidth=2)
        _draw_shares(axes[panels - 1], exploration)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    finally:
        plt.close(figure)


def _small(image: np.ndarray, box: Sequence[float]) -> tuple[np.ndarray, list[float]]:
    """No larger than a picture shows; a copy of a photograph for each branch would take gigabytes."""
    height, width = image.shape[:2]
    factor = min(1.0, 2 * _PANEL / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size)), [value * factor for value in box]


def _name(gathered: Gathered) -> str:
    return f"{gathered.kind.upper()} from {gathered.source}"


def _heated(image: np.ndarray, weights: Tensor, size: tuple[float, float]) -> np.ndarray:
    """The image in grey, under the weights of a map (h, w), of which the image fills ``size``."""
    import matplotlib

    height, width = image.shape[:2]
    values = weights.double().numpy()
    box = (0.0, 0.0, min(size[1], values.shape[1]), min(size[0], values.shape[0]))
    values = values / max(values.max(), 1e-12)
    scaled = Image.fromarray(values.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC, box=box)
    strength = np.clip(np.asarray(scaled), 0, 1)[..., None]
    color = matplotlib.colormaps["inferno"](strength[..., 0])[..., :3]
    grey = image.mean(axis=2, keepdims=True) / 255
    heated: np.ndarray = np.clip(0.6 * (1 - strength) * grey + 0.25 * strength * grey + 0.75 * color, 0, 1)
    return heated


def _draw_shares(axis: Any, exploration: Exploration) -> None:
    names = [f"{exploration.level} itself", *map(_name, exploration.gathered)]
    shares = [exploration.own_share, *(gathered.share for gathered in exploration.gathered)]
    places = range(len(names))
    axis.barh(places, shares, color=["#999999", *["#0072b2"] * len(exploration.gathered)])
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_title("shares of the output", fontsize=9, loc="left")
    axis.tick_params(axis="x", labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
