"""One synthetic scene for semantic segmentation, in which the class of some shapes is told far away from them.

At one end of a wide image stands a key, a star or a cross; at the other end stand squares. The squares are of one
class where the key is a star and of another where it is a cross; nothing else tells the two apart. Circles and
triangles stand anywhere.

Shape legend: H, W are the image's height and width; s is `scene.SUPERSAMPLING`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..labels import IGNORE_LABEL
from .backgrounds import draw_background, random_color
from .classes import CATEGORIES, CONTEXT_CLASSES
from .scene import MAX_ROTATION, fill_contours, hue_range, paint_shape, place_outline, shrink_mask

HEIGHT, WIDTH = 64, 368
CLASSES = tuple(CONTEXT_CLASSES)  # index is label
SQUARE_CLASSES = CLASSES[-2:]

# Pixels along the image between a square and the key, at least. A kernel of 31 positions at a stride of 8 reaches 120,
# and 181 with the first three stages of a ResNet-50 below it and two 3x3 convolutions above.
MIN_DISTANCE = 200
_KEY_END, _SQUARES_END = 64, 104  # pixels along the image
# Radii of circumscribed circles, in pixels.
_KEY_RADIUS, _SQUARE_RADIUS, _OTHER_RADIUS = (18.0, 28.0), (9.0, 12.0), (8.0, 13.0)
_MARGIN = 6  # pixels around a shape that its shadow may reach
_ATTEMPTS = 100


@dataclass(frozen=True)
class _Shape:
    """A shape to draw; place and size are in pixels, the rotation in radians."""

    label: int
    category: int
    center: np.ndarray
    radius: float
    angle: float


def draw_context_scene(rng: np.random.Generator, *, exchanged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: (H, W, 3) uint8 RGB image and (H, W) uint8 labels.

    Labels are indices into `CLASSES`; `IGNORE_LABEL` along the outlines, where a pixel is part shape and part ground.
    With ``exchanged``, a cross stands where a star would be, and a star where a cross would be. From the same ``rng``
    that gives the same image but for the key, and the other class of all squares.
    """
    shapes = _arrange(rng, exchanged)
    image, _ = draw_background(rng, HEIGHT, WIDTH)
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for shape in shapes:
        _draw(rng, image, labels, shape)
    return np.round(255 * image).astype(np.uint8), labels


def _arrange(rng: np.random.Generator, exchanged: bool) -> list[_Shape]:
    """Where everything stands; no two shapes touch."""
    mirrored = rng.random() < 0.5
    which = int(rng.integers(2)) ^ exchanged
    shapes: list[_Shape] = []
    key = ("star", "cross")[which]
    _place(rng, shapes, CLASSES.index(key), key, _KEY_RADIUS, columns=(0, _KEY_END))
    for _ in range(rng.integers(3, 6)):
        label = CLASSES.index(SQUARE_CLASSES[which])
        _place(rng, shapes, label, "square", _SQUARE_RADIUS, columns=(WIDTH - _SQUARES_END, WIDTH))
    for _ in range(rng.integers(4, 9)):
        label = int(rng.integers(1, 3))
        _place(rng, shapes, label, CLASSES[label], _OTHER_RADIUS)
    if mirrored:
        for shape in shapes:
            shape.center[0] = WIDTH - shape.center[0]
    return shapes


def _place(
    rng: np.random.Generator,
    shapes: list[_Shape],
    label: int,
    outline: str,
    radius_range: tuple[float, float],
    *,
    columns: tuple[int, int] = (0, WIDTH),
) -> None:
    """Add a shape wholly within the columns where it touches no other, or none where there is no room."""
    radius, angle = rng.uniform(*radius_range), rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(_ATTEMPTS):
        center = rng.uniform((columns[0] + radius, radius), (columns[1] - radius, HEIGHT - radius))
        if all(np.hypot(*(center - other.center)) > radius + other.radius + 2 for other in shapes):
            shapes.append(_Shape(label, CATEGORIES.index(outline), center, radius, angle))
            return


def _draw(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, shape: _Shape) -> None:
    """Paint a shape over ``image`` (H, W, 3) and write its label into ``labels`` (H, W), in place."""
    first = np.maximum(np.floor(shape.center - shape.radius).astype(int) - _MARGIN, 0)
    last = np.minimum(np.ceil(shape.center + shape.radius).astype(int) + _MARGIN, (WIDTH, HEIGHT))
    window = slice(first[1], last[1]), slice(first[0], last[0])
    height, width = labels[window].shape
    contours = place_outline(shape.category, shape.center - first, shape.radius, shape.angle)
    mask, _ = fill_contours(contours, height, width)
    # Not what contrasts best with the ground, as in the scenes for detection: the color would tell of the ground.
    color = random_color(rng, saturation=(0.7, 1.0), value=(0.65, 1.0), hue=hue_range(shape.category))
    paint_shape(rng, image[window], mask, lambda _: color)
    coverage = shrink_mask(mask, height, width)
    labels[window][coverage > 0.25] = IGNORE_LABEL
    labels[window][coverage > 0.75] = shape.label
