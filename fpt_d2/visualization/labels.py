"""Labels in pictures, which supervision moves apart where they would lie over each other."""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image

logger = logging.getLogger(__name__)

# Heights of letters, in pixels: the least is legible, the most suits a photo of 12 megapixels.
_SMALLEST, _LARGEST = 11, 40
_ROUNDS = 10


class Label(NamedTuple):
    """A text in a picture.

    Attributes:
        text: in one line.
        x, y: pixels of the picture: the corner above which the text stands, or its middle.
        color: RGB, 0 to 255, of what lies behind the letters.
        centered: (x, y) is the middle.
    """

    text: str
    x: float
    y: float
    color: tuple[int, ...]
    centered: bool = False


@cache
def can_write_labels() -> bool:
    """Whether supervision, the package that places labels, is installed."""
    is_there = importlib.util.find_spec("supervision") is not None
    if not is_there:
        logger.warning("Labels may lie over each other: pip install supervision, which places them")
    return is_there


def write_labels(picture: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
    """Write the labels into a picture (H, W, 3), RGB, uint8: into a copy of it."""
    page = Image.fromarray(picture)
    for centered in (False, True):
        _write([label for label in labels if label.centered == centered], page, centered=centered)
    return np.array(page)


def _write(labels: Sequence[Label], page: Image.Image, *, centered: bool) -> None:
    if not labels:
        return
    import supervision as sv  # takes a second, which pictures without labels need not wait for

    class Writer(sv.RichLabelAnnotator):
        """Supervision moves labels apart, and then those beyond the edge back, maybe onto others: so again."""

        def _adjust_labels_in_frame(self, size: Any, texts: Any, places: Any) -> Any:
            for _ in range(_ROUNDS):
                places = super()._adjust_labels_in_frame(size, texts, places)
            return places

    size = min(max(_SMALLEST, round(math.sqrt(page.width * page.height) / 55)), _LARGEST)
    writer = Writer(
        color=sv.ColorPalette([sv.Color(*label.color) for label in labels]),
        text_color=sv.ColorPalette([_letters_on(label.color) for label in labels]),
        color_lookup=sv.ColorLookup.INDEX,
        font_path=findfont(FontProperties()),
        font_size=size,
        text_padding=max(2, size // 6),
        text_position=sv.Position.CENTER if centered else sv.Position.TOP_LEFT,
        smart_position=True,
    )
    points = np.array([(label.x, label.y) * 2 for label in labels], dtype=float)
    writer.annotate(page, sv.Detections(xyxy=points), [label.text for label in labels])


def _letters_on(color: tuple[int, ...]) -> Any:
    import supervision as sv

    red, green, blue = color
    return sv.Color.BLACK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else sv.Color.WHITE
