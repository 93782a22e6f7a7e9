"""Ground truth and predictions of several images side by side, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.data import Metadata
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from .predictions import class_colors, draw_ground_truth, draw_predictions

# Long side, in pixels, to which each image of a grid is brought.
_CELL = 300
_GAP = 14
_LINE = 24  # height of a line of text
# A pair is narrower inside than towards its neighbor, so that the eye sees which two belong together.
_SECOND = _GAP + _CELL + _GAP // 2
_PAIR_WIDTH = _SECOND + _CELL + _GAP


class Example(NamedTuple):
    """An image (H, W, 3), its dict in Detectron2's dataset format, and the model's output for it."""

    image: np.ndarray
    dataset_dict: dict[str, Any]
    outputs: dict[str, Any]


def draw_predictions_grid(
    examples: Sequence[Example],
    path: str | Path,
    metadata: Metadata,
    *,
    min_score: float = 0.5,
    pairs_per_row: int = 2,
) -> None:
    """Draw ground truth and predictions of several images side by side, as one picture.

    Small images are enlarged, instances below ``min_score`` are left out, and semantic classes have their names in a
    legend below. The folder of ``path`` is made if needed. Raises ValueError if there are no examples.
    """
    if not examples:
        raise ValueError("There is no image to draw: give at least one example")
    columns = min(pairs_per_row, len(examples))
    pairs = [_draw_pair(example, metadata, min_score) for example in examples]
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    tops = np.cumsum([_GAP + _LINE, *(max(pair.height for pair in row) for row in rows)]).tolist()
    legend = _draw_legend(_legend_entries(examples, metadata), columns * _PAIR_WIDTH)
    page = Image.new("RGB", (columns * _PAIR_WIDTH, tops[-1] + legend.height), "white")
    for column in range(columns):
        for left, title in ((_GAP, "ground truth"), (_SECOND, "prediction")):
            _write(page, title, column * _PAIR_WIDTH + left, _GAP, size=20, weight="bold")
    for row, top in zip(rows, tops):
        for column, pair in enumerate(row):
            page.paste(pair, (column * _PAIR_WIDTH, top))
    page.paste(legend, (0, tops[-1]))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    page.save(path)


def _draw_pair(example: Example, metadata: Metadata, min_score: float) -> Image.Image:
    """Ground truth and prediction of an image under its name."""
    scale = _CELL / max(example.image.shape[:2])
    options: dict[str, Any] = {"scale": scale, "class_names": False}
    truth = draw_ground_truth(example.image, example.dataset_dict, metadata, **options)
    drawn = draw_predictions(example.image, example.outputs, metadata, min_score=min_score, **options)
    pair = Image.new("RGB", (_PAIR_WIDTH, _LINE + truth.shape[0] + _GAP), "white")
    _write(pair, Path(example.dataset_dict.get("file_name", "")).name, _GAP, 0, color="#555555")
    pair.paste(Image.fromarray(truth), (_GAP, _LINE))
    pair.paste(Image.fromarray(drawn), (_SECOND, _LINE))
    return pair


def _legend_entries(examples: Sequence[Example], metadata: Metadata) -> dict[str, tuple[int, ...]]:
    """Name and color of the semantic classes that are predicted, and of those in the ground truth."""
    found: set[int] = set()
    for example in examples:
        if "sem_seg" in example.outputs and "panoptic_seg" not in example.outputs:
            found.update(example.outputs["sem_seg"].argmax(dim=0).unique().tolist())
            if "sem_seg_file_name" in example.dataset_dict:
                with Image.open(example.dataset_dict["sem_seg_file_name"]) as labels:
                    found.update(np.unique(np.asarray(labels)).tolist())
    if not found:
        return {}
    colors = class_colors(metadata).tolist()
    return {metadata.stuff_classes[i]: tuple(colors[i]) for i in sorted(found) if i < len(colors)}


def _draw_legend(entries: dict[str, tuple[int, ...]], width: int) -> Image.Image:
    """Each name behind a square of its color, in columns."""
    entry_width = 2 * _LINE + max((round(_font().getlength(name)) for name in entries), default=0)
    per_row = max(1, (width - _GAP) // entry_width)
    legend = Image.new("RGB", (width, -(-len(entries) // per_row) * _LINE), "white")
    for index, (name, color) in enumerate(entries.items()):
        row, column = divmod(index, per_row)
        left, top, side = column * entry_width + _GAP, row * _LINE, _LINE - 10
        legend.paste(color, (left, top, left + side, top + side))
        _write(legend, name, left + _LINE - 4, top)
    return legend


def _write(page: Image.Image, text: str, left: int, top: int, *, color: str = "black", **font: Any) -> None:
    ImageDraw.Draw(page).text((left, top), text, fill=color, font=_font(**font))


def _font(size: int = 14, weight: str = "normal") -> ImageFont.FreeTypeFont:
    """Matplotlib's own, as in the pictures; ``size`` in pixels."""
    return ImageFont.truetype(findfont(FontProperties(weight=weight)), size)
