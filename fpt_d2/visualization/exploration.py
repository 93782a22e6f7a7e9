"""The picture of an exploration: what a place gathers, as one map for each source level, and the shares as bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from .attention import Exploration, Gathered
from .curves import COLORS, save_figure

# Width of the image in a picture, in pixels.
_PANEL = 420


def draw_exploration(
    image: np.ndarray,
    box: Sequence[float],
    exploration: Exploration,
    path: str | Path | io.BytesIO,
    *,
    title: str = "",
) -> None:
    """Write a picture: the image with the place, one map for each source level, and the shares as bars.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: x1, y1, x2, y2, what was asked about.
        path: a file, whose folder is made if needed, or a buffer to write a PNG to.
        title: of what was asked about, e.g. the object's class.

    Raises:
        OSError: the file cannot be written.
    """
    image, box = _small(image, box)
    height, width = image.shape[:2]
    panels = len(exploration.gathered) + 2
    columns = 3 if width < 2 * height else 2
    rows = -(-panels // columns)
    size = columns * _PANEL / 100, rows * (_PANEL / 100 * height / width + 0.35)
    figure = Figure(figsize=size, dpi=100, layout="constrained")  # not pyplot's, which only one thread may use
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[panels:]:
        axis.set_axis_off()
    for axis, gathered in zip(axes, [None, *exploration.gathered]):
        axis.set_axis_off()
        if gathered is None:
            axis.imshow(image)
            heading = f"{title or 'the place'}, level {exploration.level}"
        else:
            axis.imshow(_heated(image, gathered.map, exploration.size[gathered.source]))
            heading = _heading(gathered)
        axis.set_title(heading, fontsize=9, loc="left")
        _mark(axis, box)
    _draw_shares(axes[panels - 1], exploration)
    if isinstance(path, io.BytesIO):
        figure.savefig(path)
    else:
        save_figure(figure, path)


def _mark(axis: Axes, box: Sequence[float]) -> None:
    """The box, or a cross at a point, with a white rim that shows on any picture."""
    x1, y1, x2, y2 = box
    if x2 > x1 and y2 > y1:
        for color, width in (("white", 2.5), (COLORS[1], 1.2)):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linewidth=width))
    else:
        for color, size, width in (("white", 13, 4), (COLORS[1], 12, 2)):
            axis.plot([x1], [y1], marker="+", color=color, markersize=size, markeredgewidth=width)


def _heading(gathered: Gathered) -> str:
    heading = f"{gathered.name}: {gathered.share:.0%}"
    if gathered.entropy is not None:
        heading += f", entropy {gathered.entropy:.2f}"
    if gathered.beyond > 0.005:
        heading += f", {gathered.beyond:.0%} beyond the image"
    return heading


def _small(image: np.ndarray, box: Sequence[float]) -> tuple[np.ndarray, list[float]]:
    """No larger than a picture shows; a copy of a photograph for each branch would take gigabytes."""
    height, width = image.shape[:2]
    factor = min(1.0, 2 * _PANEL / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return np.asarray(Image.fromarray(image).resize(size)), [value * factor for value in box]


def _heated(image: np.ndarray, weights: Tensor, size: tuple[float, float]) -> np.ndarray:
    """The image in grey, under the weights of a map (h, w), of which the image fills ``size``."""
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


def _draw_shares(axis: Axes, exploration: Exploration) -> None:
    names = [f"{exploration.level} itself", *(gathered.name for gathered in exploration.gathered)]
    shares = [exploration.own_share, *(gathered.share for gathered in exploration.gathered)]
    places = range(len(names))
    axis.barh(places, shares, color=["#999999", *[COLORS[0]] * len(exploration.gathered)])
    axis.set_yticks(places, names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_title("shares of the output", fontsize=9, loc="left")
    axis.tick_params(axis="x", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
