"""One synthetic image: shapes placed over a background so that later ones hide earlier ones.

Shape legend: H, W are the image's height and width; s is `SUPERSAMPLING`. Images are float32 RGB in [0, 1], masks
(sH, sW) bool. All randomness comes from the ``rng`` that a function is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from .backgrounds import draw_background, random_color
from .classes import CATEGORIES
from .outlines import OUTLINES

# Masks are drawn at this multiple of the image's size: smooth edges, and polygons finer than a pixel.
SUPERSAMPLING = 4
# A shape is placed only where at least this share of it, and of every shape under it, can be seen; so nothing is
# drawn that would be too hidden to be annotated.
MIN_VISIBLE_SHARE = 0.65
# Radians to either side. With any rotation, a small network from scratch needs several times as long to tell the
# categories apart.
MAX_ROTATION = 0.3
# A category's hues reach so far to either side of its own, of a circle of 1: as things in photographs, shapes of a
# category look alike in color too, without which a small network from scratch takes hours rather than minutes.
HUE_SPREAD = 0.07
MIN_DIAMETER = 10.0  # pixels
MAX_DIAMETER = 0.95  # of the short side
MAX_SHAPES = 6
_ATTEMPTS = 20


@dataclass
class SceneObject:
    """An object, or a crowd of them under one annotation, and what can be seen of it.

    Attributes:
        category: index into `CATEGORIES`.
        parts: (sH, sW) mask of every shape before occlusion; one, unless the object is a crowd.
        visible: (sH, sW) mask of what later objects leave of it.
        area: in mask pixels, the part beyond the image's border included.
        outline: (K, 2) corners, x and y in image pixels, some maybe beyond the border; None for a crowd.
    """

    category: int
    parts: list[np.ndarray]
    visible: np.ndarray
    area: float
    outline: np.ndarray | None = None

    @property
    def iscrowd(self) -> bool:
        return len(self.parts) > 1

    def share_left(self, hidden: np.ndarray) -> float:
        """The share of the object that can be seen when ``hidden`` (sH, sW) is covered."""
        return np.count_nonzero(self.visible & ~hidden) / self.area


class Scene(NamedTuple):
    """A drawn image and what is in it."""

    # (H, W, 3), RGB, uint8
    pixels: np.ndarray
    # From back to front.
    objects: list[SceneObject]
    # One of `backgrounds.PATTERNS`.
    background: str


def draw_scene(rng: np.random.Generator, height: int, width: int, *, num_shapes: int, crowd: bool) -> Scene:
    """Draw ``num_shapes`` shapes, fewer when there is no room, and with ``crowd`` a cluster of small ones."""
    objects: list[SceneObject] = []
    if crowd:
        _place(objects, partial(_crowd, rng, height, width))
    for _ in range(num_shapes):
        # Category and size are drawn once, so that the ones that are harder to place do not become rare.
        category, diameter = int(rng.integers(len(CATEGORIES))), _diameter(rng, min(height, width))
        _place(objects, partial(_single, rng, height, width, category, diameter))

    image, background = draw_background(rng, height, width)
    for scene_object in objects:
        for mask in scene_object.parts:
            paint_shape(rng, image, mask, partial(_contrasting_color, rng, scene_object.category))
    return Scene(np.round(255 * image).astype(np.uint8), objects, background)


def shrink_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Coverage of every image pixel by a mask (sH, sW). Returns (H, W) float32 in [0, 1]."""
    return cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)


def _diameter(rng: np.random.Generator, short_side: int) -> float:
    """A diameter in pixels: fewest at the ends of the range, in octaves."""
    return float(MIN_DIAMETER * (MAX_DIAMETER * short_side / MIN_DIAMETER) ** rng.beta(2.0, 1.5))


def _rotation(rng: np.random.Generator) -> float:
    return rng.uniform(-MAX_ROTATION, MAX_ROTATION)


def _place(objects: list[SceneObject], draw: Callable[[], SceneObject]) -> None:
    """Put an object on top of ``objects`` where it leaves everything visible enough, or not at all."""
    for _ in range(_ATTEMPTS):
        new = draw()
        hidden = np.logical_or.reduce(new.parts)
        if all(old.share_left(hidden) >= MIN_VISIBLE_SHARE for old in objects) and (
            np.count_nonzero(new.visible) >= MIN_VISIBLE_SHARE * new.area
        ):
            for old in objects:
                old.visible &= ~hidden
            objects.append(new)
            return


def _single(rng: np.random.Generator, height: int, width: int, category: int, diameter: float) -> SceneObject:
    center = rng.uniform((0, 0), (width, height))
    contours = place_outline(category, center, diameter / 2, _rotation(rng))
    mask, area = fill_contours(contours, height, width)
    return SceneObject(category, [mask], mask.copy(), area, contours[0])


def _crowd(rng: np.random.Generator, height: int, width: int) -> SceneObject:
    """A heap of small shapes of one category."""
    short_side = min(height, width)
    category = int(rng.integers(len(CATEGORIES)))
    center = rng.uniform(0.25, 0.75, 2) * (width, height)
    parts = []
    for _ in range(rng.integers(10, 19)):
        offset = np.clip(rng.normal(size=2), -2, 2) * 0.1 * short_side
        radius = rng.uniform(0.04, 0.065) * short_side
        parts.append(fill_contours(place_outline(category, center + offset, radius, _rotation(rng)), height, width)[0])
    visible = np.logical_or.reduce(parts)
    return SceneObject(category, parts, visible, float(np.count_nonzero(visible)))


def place_outline(category: int, center: np.ndarray, radius: float, angle: float) -> list[np.ndarray]:
    """Contours (K, 2) of a shape, x and y in image pixels as ``center`` (2,); those after the first are holes.

    ``radius`` is that of the circumscribed circle, ``angle`` the rotation in radians.
    """
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [radius * c @ rotation + center for c in OUTLINES[CATEGORIES[category]]]


def fill_contours(contours: Sequence[np.ndarray], height: int, width: int) -> tuple[np.ndarray, float]:
    """Rasterize a shape: its (sH, sW) mask, and its whole area in mask pixels."""
    # The center of mask pixel (i, j) has the coordinates (j + 0.5, i + 0.5) in cv2's numbering (j, i).
    contours = [c * SUPERSAMPLING - 0.5 for c in contours]
    mask = np.zeros((SUPERSAMPLING * height, SUPERSAMPLING * width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.round(c).astype(np.int32) for c in contours], 1)
    outer, *holes = (cv2.contourArea(c.astype(np.float32)) for c in contours)
    return mask.astype(bool), outer - sum(holes)


def paint_shape(
    rng: np.random.Generator,
    image: np.ndarray,
    mask: np.ndarray,
    choose_color: Callable[[np.ndarray], np.ndarray],
) -> None:
    """Paint a shape over an image (H, W, 3) in place: a shaded color, often an outline, and a soft shadow.

    ``choose_color`` goes from the mean color (3,) of what the shape covers to its own color (3,).
    """
    height, width = image.shape[:2]
    diameter = np.sqrt(np.count_nonzero(mask)) / SUPERSAMPLING
    alpha = shrink_mask(mask, height, width)
    reach = max(1.0, 0.04 * diameter)
    shadow = cv2.warpAffine(alpha, np.array([[1, 0, reach], [0, 1, reach]]), (width, height))
    image *= 1 - 0.35 * cv2.GaussianBlur(shadow, (0, 0), reach)[..., None]

    color = choose_color(image[alpha >= 0.5].mean(axis=0))
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    slope = (xs - xs[alpha > 0].mean()) * np.cos(angle) + (ys - ys[alpha > 0].mean()) * np.sin(angle)
    fill = color * (1 + 0.15 * np.clip(2 * slope / diameter, -1, 1))[..., None].astype(np.float32)
    if rng.random() < 0.5:
        size = 2 * max(1, round(0.04 * diameter * SUPERSAMPLING)) + 1
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
        inside = shrink_mask(cv2.erode(mask.astype(np.uint8), kernel), height, width)[..., None]
        fill *= 0.55 + 0.45 * inside
    image += alpha[..., None] * (np.clip(fill, 0, 1) - image)


def _contrasting_color(rng: np.random.Generator, category: int, ground: np.ndarray) -> np.ndarray:
    """The vivid color that differs most from ``ground`` (3,) among a few of the category's hue. Returns (3,)."""
    hue = hue_range(category)
    colors = [random_color(rng, saturation=(0.6, 1.0), value=(0.5, 1.0), hue=hue) for _ in range(3)]
    return max(colors, key=lambda color: float(np.abs(color - ground).sum()))


def hue_range(category: int) -> tuple[float, float]:
    middle = category / len(CATEGORIES)
    return middle - HUE_SPREAD, middle + HUE_SPREAD
