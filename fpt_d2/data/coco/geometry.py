"""Where boxes and polygons lie in their images, for many annotations at a time.

Shapes: A annotations, P polygons. Extents are (..., 4) float64 of left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .schema import Record

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = Any  # arrays of bool, which NumPy's hints cannot tell from one bool

# A box may reach beyond its image by rounding, and Detectron2 clips it. Much more than that is a mistake, most often
# (x1, y1, x2, y2) where COCO has (x, y, width, height).
TOLERANCE = 2.0  # pixels
WITHIN_ONE = "box, polygon or keypoints within 0...1, which looks normalized (COCO's are in pixels)"


class Geometry(NamedTuple):
    """What annotations have wrong: by kind a flag for each, (A,) bool.

    Attributes:
        errors, warnings: the kinds.
        within_one: what looks as if it was in shares of the image; a mistake where there are many.
    """

    errors: dict[str, Flags]
    warnings: dict[str, Flags]
    within_one: dict[str, Flags]


def check_geometry(annotations: Sequence[Record], sizes: Floats) -> Geometry:
    """
    Args:
        annotations: A records as :mod:`.schema` leaves them.
        sizes: (A, 2), width and height of the image of each.
    """
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    extents = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    polygons, owners = _polygon_extents(annotations)

    def has(flags: Flags) -> Flags:  # (P,) -> (A,)
        result = np.zeros(len(annotations), dtype=bool)
        result[owners[flags]] = True
        return result

    negative, is_flat = (boxes[:, 2:] < 0).any(1), (boxes[:, 2:] == 0).any(1)
    outside = ~negative & _reaches_outside(extents, sizes, TOLERANCE)
    stray = has(_are_apart(polygons, _whole(sizes[owners])))
    far = has(_reaches_outside(polygons, sizes[owners], sizes[owners])) & ~stray
    elsewhere = has(_are_apart(polygons, extents[owners])) & ~(negative | outside | stray | far)
    errors = {
        "box with a negative size": negative,
        "box reaches outside its image (COCO's boxes are x, y, width, height)": outside,
        "polygon outside its image": stray,
        "polygon reaches far outside its image": far,
        "polygon outside its box": elsewhere,
    }
    within_one = (_is_within_one(extents, sizes) & ~is_flat) | has(_is_within_one(polygons, sizes[owners]))
    return Geometry(errors, {"box of no area": is_flat & ~negative & ~outside}, {WITHIN_ONE: within_one})


def _polygon_extents(annotations: Sequence[Record]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Extents (P, 4) of all polygons, and (P,) the position of the annotation that each is of."""
    found = [
        (i, p) for i, a in enumerate(annotations) if isinstance(a.get("segmentation"), list) for p in a["segmentation"]
    ]
    if not found:
        return np.empty((0, 4)), np.empty(0, dtype=np.int64)
    points = np.concatenate([polygon for _, polygon in found]).reshape(-1, 2)
    starts = np.cumsum([0] + [len(polygon) // 2 for _, polygon in found[:-1]])
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    return np.concatenate([low, high], axis=1), np.array([i for i, _ in found])


def _whole(sizes: Floats) -> Floats:
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)


def _reaches_outside(extents: Floats, sizes: Floats, tolerance: float | Floats) -> Flags:
    return (extents[:, :2] < -tolerance).any(1) | (extents[:, 2:] > sizes + tolerance).any(1)


def _are_apart(extents: Floats, others: Floats) -> Flags:
    low, high = others[:, :2] - TOLERANCE, others[:, 2:] + TOLERANCE
    return (extents[:, 2:] < low).any(1) | (extents[:, :2] > high).any(1)


def _is_within_one(extents: Floats, sizes: Floats) -> Flags:
    return (extents[:, :2] >= 0).all(1) & (extents[:, 2:] <= 1).all(1) & (sizes > 2).all(1)
