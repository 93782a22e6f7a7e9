"""Ground truth and predictions of several images side by side, as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np
from detectron2.data import Metadata
from matplotlib.figure import Figure
from PIL import Image

from .predictions import draw_ground_truth, draw_predictions
from .sem_seg import class_colors

# Long side, in pixels, to which each image of a grid is brought.
_CELL = 300
_GAP = 14
_TITLE = 24
# Width of a letter in the legend, generously.
_LETTER = 8
_DPI = 100


class Example(NamedTuple):
    """An image with what is known and what is predicted about it."""

    # (H, W, 3), RGB, uint8
    image: np.ndarray
    # The image's dict in Detectron2's dataset format, for its annotations.
    dataset_dict: dict[str, Any]
    # The model's output for the image, in the image's own coordinates.
    outputs: dict[str, Any]


def draw_predictions_grid(
    examples: Sequence[Example],
    path: Union[str, Path],
    metadata: Metadata,
    *,
    min_score: float = 0.5,
    pairs_per_row: int = 2,
) -> None:
    """Draw ground truth and predictions of several images side by side, as one picture.

    Semantic classes have their names in a legend below.

    Args:
        examples: the images; small ones are enlarged.
        path: the picture to write; its folder is made if needed.
        metadata: names and colors of the categories.
        min_score: instances below this score are left out.
        pairs_per_row: how many images stand in one row.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("There is no image to draw: give at least one example")
    pairs = []
    for example in examples:
        scale = _CELL / max(example.image.shape[:2])
        truth = draw_ground_truth(example.image, example.dataset_dict, metadata, scale=scale, class_names=False)
        drawn = draw_predictions(
            example.image, example.outputs, metadata, scale=scale, min_score=min_score, class_names=False
        )
        pairs.append((truth, drawn))
    titles = [Path(example.dataset_dict.get("file_name", "")).name for example in examples]
    _save_grid(pairs, titles, _legend(examples, metadata), path, pairs_per_row)


def _legend(examples: Sequence[Example], metadata: Metadata) -> list[tuple[str, tuple[float, ...]]]:
    """Name and color of the semantic classes that are predicted, and of those in the ground truth."""
    found: set[int] = set()
    for example in examples:
        if "sem_seg" in example.outputs and "panoptic_seg" not in example.outputs:
            found.update(example.outputs["sem_seg"].argmax(dim=0).unique().tolist())
            if "sem_seg_file_name" in example.dataset_dict:
                with Image.open(example.dataset_dict["sem_seg_file_name"]) as labels:
                    found.update(np.unique(np.asarray(labels)).tolist())
    if not found:
        return []
    colors = class_colors(metadata)
    return [(metadata.stuff_classes[i], tuple(colors[i] / 255)) for i in sorted(found) if i < len(colors)]


def _save_grid(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    titles: Sequence[str],
    legend: Sequence[tuple[str, tuple[float, ...]]],
    path: Union[str, Path],
    pairs_per_row: int,
) -> None:
    """Lay the pairs out in rows, each under its title and the first row under those of the columns; write the PNG."""
    columns = min(pairs_per_row, len(pairs))
    heights = [max(pair[0].shape[0] for pair in pairs[i : i + columns]) for i in range(0, len(pairs), columns)]
    # A pair is narrower inside than towards its neighbor, so that the eye sees which two belong together.
    inner, pair_width = _CELL + _GAP // 2, 2 * _CELL + _GAP // 2 + 2 * _GAP
    entry_width = _TITLE + _GAP + _LETTER * max((len(name) for name, _ in legend), default=0)
    entries_per_row = max(1, (columns * pair_width - _GAP) // entry_width)
    legend_top = 2 * _TITLE + sum(heights) + len(heights) * (_TITLE + _GAP)
    page = _Page(width=columns * pair_width, height=legend_top + -(-len(legend) // entries_per_row) * _TITLE)
    for index, (name, color) in enumerate(legend):
        row, column = divmod(index, entries_per_row)
        page.write_entry(name, color, column * entry_width + _GAP, legend_top + row * _TITLE)
    top = _GAP
    for column in range(columns):
        page.write("ground truth", column * pair_width + _GAP, top, size=14, weight="bold")
        page.write("prediction", column * pair_width + _GAP + inner, top, size=14, weight="bold")
    top += _TITLE
    for index, ((truth, drawn), title) in enumerate(zip(pairs, titles)):
        row, column = divmod(index, columns)
        if row and not column:
            top += _TITLE + heights[row - 1] + _GAP
        left = column * pair_width + _GAP
        page.write(title, left, top, size=10, color="#555555")
        page.paste(truth, left, top + _TITLE)
        page.paste(drawn, left + inner, top + _TITLE)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    page.figure.savefig(path, dpi=_DPI)


class _Page:
    """A white page measured in pixels from its upper left corner."""

    def __init__(self, *, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)

    def write(self, text: str, left: int, top: int, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", **style)

    def write_entry(self, name: str, color: tuple[float, ...], left: int, top: int) -> None:
        """A name behind a square of its color."""
        patch = np.full((_TITLE - 10, _TITLE - 10, 3), np.round(255 * np.array(color)), dtype=np.uint8)
        self.paste(patch, left, top)
        self.write(name, left + _TITLE - 4, top, size=10)

    def paste(self, picture: np.ndarray, left: int, top: int) -> None:
        """Pixel for pixel, which axes would resample."""
        self.figure.figimage(picture, left, self.height - top - picture.shape[0], origin="upper")
