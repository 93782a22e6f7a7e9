"""Shapes that do not touch each other, placed in regions of an image and painted one by one.

Shape legend: H, W are the image's height and width; s is `scene.SUPERSAMPLING`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .backgrounds import random_color
from .classes import CATEGORIES
from .scene import MAX_ROTATION, SUPERSAMPLING, fill_contours, paint_shape, place_outline, shrink_mask

_ATTEMPTS = 100
_DOT_RADIUS = 0.33  # of the shape's; the inner corners of a star are at 0.45
_DOT_SHADE = 0.1  # of the shape's color


class Look(NamedTuple):
    """What a shape is: label, outline (index into `CATEGORIES`), range of its hue, and a dark dot on it or none."""

    label: int
    category: int
    hue: tuple[float, float]
    dotted: bool = False


@dataclass(frozen=True)
class Shape:
    """A shape to paint; place and circumscribed radius are in pixels, the rotation in radians."""

    look: Look
    center: np.ndarray
    radius: float
    angle: float


def place(
    rng: np.random.Generator,
    shapes: list[Shape],
    look: Look,
    radius_range: tuple[float, float],
    region: tuple[float, float, float, float],
) -> None:
    """Add a shape wholly within ``region`` (x1, y1, x2, y2) where it touches no other, or none if there is no room."""
    radius, angle = rng.uniform(*radius_range), rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    x1, y1, x2, y2 = region
    for _ in range(_ATTEMPTS):
        center = rng.uniform((x1 + radius, y1 + radius), (x2 - radius, y2 - radius))
        if all(np.hypot(*(center - other.center)) > radius + other.radius + 2 for other in shapes):
            shapes.append(Shape(look, center, radius, angle))
            return


def paint(
    rng: np.random.Generator, image: np.ndarray, shape: Shape, *, margin: int
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Paint a shape over ``image`` (H, W, 3) in place, its shadow at most ``margin`` pixels around it.

    Returns the shape's mask (sh, sw) in a window, and the window (h, w) of the image. Beyond it nothing changes.
    """
    height, width = image.shape[:2]
    first = np.maximum(np.floor(shape.center - shape.radius).astype(int) - margin, 0)
    last = np.minimum(np.ceil(shape.center + shape.radius).astype(int) + margin, (width, height))
    window = slice(first[1], last[1]), slice(first[0], last[0])
    height, width = image[window].shape[:2]
    center = shape.center - first
    mask, _ = fill_contours(place_outline(shape.look.category, center, shape.radius, shape.angle), height, width)
    # Not what contrasts best with the ground, as in the scenes of `scene`: the color would tell of the ground.
    color = random_color(rng, saturation=(0.7, 1.0), value=(0.65, 1.0), hue=shape.look.hue)
    paint_shape(rng, image[window], mask, lambda _: color)
    if shape.look.dotted:
        _paint_dot(image[window], center, _DOT_RADIUS * shape.radius, _DOT_SHADE * color)
    return mask, window


def _paint_dot(image: np.ndarray, center: np.ndarray, radius: float, color: np.ndarray) -> None:
    height, width = image.shape[:2]
    circle = place_outline(CATEGORIES.index("circle"), center, radius, 0.0)
    alpha = shrink_mask(fill_contours(circle, height, width)[0], height, width)[..., None]
    image += alpha * (color - image)


def whole_mask(mask: np.ndarray, window: tuple[slice, slice], height: int, width: int) -> np.ndarray:
    """The mask (sH, sW) of the image that has ``mask`` in ``window``."""
    whole = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), dtype=bool)
    rows, columns = (slice(SUPERSAMPLING * part.start, SUPERSAMPLING * part.stop) for part in window)
    whole[rows, columns] = mask
    return whole
