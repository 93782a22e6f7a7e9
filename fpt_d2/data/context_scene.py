"""One synthetic scene for semantic segmentation, in which the class of some shapes is told far away from them.

At one end of a wide image stand a star and a cross, of two colors: the key, as on a map. At the other end stand squares
of these two colors. A square belongs to the star or to the cross, whichever has its color; nothing else tells the two
classes of squares apart. Circles and triangles of any color stand between.

Shape legend: H, W are the image's height and width; s is `scene.SUPERSAMPLING`.
"""

from dataclasses import dataclass

import numpy as np

from .backgrounds import draw_background, random_color
from .scene import MAX_ROTATION, fill_contours, paint_shape, place_outline, shrink_mask
from .shapes import CATEGORIES

HEIGHT, WIDTH = 80, 384
# Index is label. The last two look alike.
CLASSES = ("ground", "circle", "triangle", "star", "cross", "square of star", "square of cross")
CONTEXT_CLASSES = CLASSES[-2:]
CLASS_COLORS = (
    (60, 60, 60),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (230, 159, 0),
    (120, 60, 200),
)
IGNORE_LABEL = 255

# Pixels between a square and the key, edge to edge along the image, at least. A plain convolution of 31 positions at
# a stride of 8 reaches 120.
MIN_DISTANCE = 192
_KEY_END, _SQUARES_END = 80, 112  # pixels along the image
# Hues are of a circle of 1: the two of the key are so far apart at least, a square is so near to its own at most.
_MIN_HUE_DIFFERENCE, _HUE_SPREAD = 0.25, 0.02
# Radii of circumscribed circles, in pixels.
_KEY_RADIUS, _SQUARE_RADIUS, _OTHER_RADIUS = (15.0, 19.0), (9.0, 14.0), (8.0, 15.0)
_MARGIN = 6  # pixels around a shape that its shadow may reach
_ATTEMPTS = 100


@dataclass(frozen=True)
class _Shape:
    """A shape to draw: its label and outline, place and size in pixels, rotation in radians, and hue."""

    label: int
    category: int
    center: np.ndarray
    radius: float
    angle: float
    hue: float


def draw_context_scene(rng: np.random.Generator, *, exchanged: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene.

    Args:
        rng: the only source of randomness.
        exchanged: exchange the colors of the star and the cross. From the same ``rng`` this gives the same image but
            for these two shapes, with the labels of all squares exchanged.

    Returns:
        (H, W, 3) uint8 RGB image and (H, W) uint8 labels, indices into `CLASSES`; `IGNORE_LABEL` along the outlines,
        where a pixel is part shape and part ground.
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
    first = rng.random()
    hues = [first, (first + rng.uniform(_MIN_HUE_DIFFERENCE, 1 - _MIN_HUE_DIFFERENCE)) % 1.0]
    shapes: list[_Shape] = []
    halves = rng.permutation([(0, HEIGHT // 2), (HEIGHT // 2, HEIGHT)]).tolist()
    for name, hue, rows in zip(("star", "cross"), hues[::-1] if exchanged else hues, halves):
        _place(rng, shapes, CLASSES.index(name), name, _KEY_RADIUS, hue, columns=(0, _KEY_END), rows=rows)
    # As many of either color, in random order: what is placed last finds less room.
    for i in rng.permutation(2 * rng.integers(2, 4)) % 2:
        label = CLASSES.index(CONTEXT_CLASSES[1 - i if exchanged else i])
        hue = (hues[i] + rng.uniform(-_HUE_SPREAD, _HUE_SPREAD)) % 1.0
        _place(rng, shapes, label, "square", _SQUARE_RADIUS, hue, columns=(WIDTH - _SQUARES_END, WIDTH))
    for _ in range(rng.integers(3, 8)):
        label = int(rng.integers(1, 3))
        _place(rng, shapes, label, CLASSES[label], _OTHER_RADIUS, rng.random())
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
    hue: float,
    *,
    columns: tuple[int, int] = (0, WIDTH),
    rows: tuple[int, int] = (0, HEIGHT),
) -> None:
    """Add a shape wholly within the rows and columns where it touches no other, or none where there is no room."""
    radius, angle = rng.uniform(*radius_range), rng.uniform(-MAX_ROTATION, MAX_ROTATION)
    for _ in range(_ATTEMPTS):
        center = rng.uniform((columns[0] + radius, rows[0] + radius), (columns[1] - radius, rows[1] - radius))
        if all(np.hypot(*(center - other.center)) > radius + other.radius + 2 for other in shapes):
            shapes.append(_Shape(label, CATEGORIES.index(outline), center, radius, angle, hue))
            return


def _draw(rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, shape: _Shape) -> None:
    """Paint a shape over ``image`` (H, W, 3) and write its label into ``labels`` (H, W), in place."""
    first = np.maximum(np.floor(shape.center - shape.radius).astype(int) - _MARGIN, 0)
    last = np.minimum(np.ceil(shape.center + shape.radius).astype(int) + _MARGIN, (WIDTH, HEIGHT))
    window = slice(first[1], last[1]), slice(first[0], last[0])
    height, width = labels[window].shape
    contours = place_outline(shape.category, shape.center - first, shape.radius, shape.angle)
    mask, _ = fill_contours(contours, height, width)
    hue = (shape.hue, shape.hue)
    # Whatever the ground: a color that contrasts with it would tell where a shape stands.
    color = random_color(rng, saturation=(0.7, 1.0), value=(0.65, 1.0), hue=hue)
    paint_shape(rng, image[window], mask, lambda _: color)
    coverage = shrink_mask(mask, height, width)
    labels[window][coverage > 0.25] = IGNORE_LABEL
    labels[window][coverage > 0.75] = shape.label
