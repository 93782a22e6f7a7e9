"""One synthetic scene for semantic segmentation, in which the class of some shapes is told far away from them.

At one end of a wide image stands a key, a star or a cross; at the other end stand squares. The squares are of one
class where the key is a star and of another where it is a cross; nothing else tells the two apart. Circles and
triangles stand anywhere.

Shape legend: H, W are the image's height and width; s is `scene.SUPERSAMPLING`.
"""

from __future__ import annotations

import numpy as np

from ..labels import IGNORE_LABEL
from .backgrounds import draw_background
from .classes import CATEGORIES, CONTEXT_CLASSES
from .placing import Look, Shape, paint, place
from .scene import hue_range, shrink_mask

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


def _arrange(rng: np.random.Generator, exchanged: bool) -> list[Shape]:
    """Where everything stands; no two shapes touch."""
    mirrored = rng.random() < 0.5
    which = int(rng.integers(2)) ^ exchanged
    shapes: list[Shape] = []
    key = ("star", "cross")[which]
    place(rng, shapes, _look(CLASSES.index(key), key), _KEY_RADIUS, (0, 0, _KEY_END, HEIGHT))
    squares = _look(CLASSES.index(SQUARE_CLASSES[which]), "square")
    for _ in range(rng.integers(3, 6)):
        place(rng, shapes, squares, _SQUARE_RADIUS, (WIDTH - _SQUARES_END, 0, WIDTH, HEIGHT))
    for _ in range(rng.integers(4, 9)):
        label = int(rng.integers(1, 3))
        place(rng, shapes, _look(label, CLASSES[label]), _OTHER_RADIUS, (0, 0, WIDTH, HEIGHT))
    if mirrored:
        for shape in shapes:
            shape.center[0] = WIDTH - shape.center[0]
    return shapes


def _look(label: int, outline: str) -> Look:
    category = CATEGORIES.index(outline)
    return Look(label, category, hue_range(category))


def _draw(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, shape: Shape) -> None:
    """Paint a shape over ``image`` (H, W, 3) and write its label into ``labels`` (H, W), in place."""
    mask, window = paint(rng, image, shape, margin=_MARGIN)
    coverage = shrink_mask(mask, *labels[window].shape)
    labels[window][coverage > 0.25] = IGNORE_LABEL
    labels[window][coverage > 0.75] = shape.look.label
