"""Where boxes and masks lie in their images, for many annotations at a time.

Shapes: A annotations, P polygons, R masks of RLE. Extents are (..., 4) float64 of left, top, right, bottom in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from .rle import box_of_rle
from .schema import Record

Floats: TypeAlias = npt.NDArray[np.float64]
Flags: TypeAlias = Any  # arrays of bool, which NumPy's hints cannot tell from one bool

# A box may reach beyond its image by rounding, and Detectron2 clips it. Much more than that is a mistake, most often
# (x1, y1, x2, y2) where COCO has (x, y, width, height).
TOLERANCE = 2.0  # pixels
_NO_LENGTH = 1e-5  # pixels: what Detectron2 takes for the width of an empty box
_NO_AREA = 1e-6  # pixels: what rounding leaves of the area of points on one line
WITHIN_ONE = "box, polygon or keypoints within 0...1, which looks normalized (COCO's are in pixels)"


class Geometry(NamedTuple):
    """What annotations have wrong: by kind a flag for each, (A,) bool.

    Attributes:
        errors: the kinds that are mistakes.
        no_area: "box" and "mask", in which nothing can be learned.
        within_one: what looks as if it was in shares of the image; a mistake where there are many.
    """

    errors: dict[str, Flags]
    no_area: dict[str, Flags]
    within_one: dict[str, Flags]


def check_geometry(annotations: Sequence[Record], sizes: Floats) -> Geometry:
    """
    Args:
        annotations: A records as :mod:`.schema` leaves them, with RLE that is right.
        sizes: (A, 2), width and height of the image of each.
    """
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    extents = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    polygons, areas, owners = _polygons(annotations)
    masks, of_mask = _masks(annotations)

    def has(flags: Flags, of: npt.NDArray[np.int64] = owners) -> Flags:  # (P,) or (R,) -> (A,)
        result = np.zeros(len(annotations), dtype=bool)
        result[of[flags]] = True
        return result

    negative = (boxes[:, 2:] < 0).any(1)
    outside = ~negative & _reaches_outside(extents, sizes, TOLERANCE)
    stray = has(_are_apart(polygons, _whole(sizes[owners])))
    far = has(_reaches_outside(polygons, sizes[owners], sizes[owners])) & ~stray
    is_wrong = negative | outside
    elsewhere = has(_are_apart(polygons, extents[owners])) & ~(is_wrong | stray | far)
    is_empty = (masks[:, 2:] <= masks[:, :2]).any(1)
    beside = has(_are_apart(masks, extents[of_mask]) & ~is_empty, of_mask) & ~is_wrong
    errors = {
        "box with a negative size": negative,
        "box reaches outside its image (COCO's boxes are x, y, width, height)": outside,
        "polygon outside its image": stray,
        "polygon reaches far outside its image": far,
        "polygon outside its box": elsewhere,
        "mask (RLE) outside its box": beside,
    }
    is_flat = _is_flat(extents, sizes) & ~is_wrong
    no_area = {"box": is_flat, "mask": (has(areas <= _NO_AREA) & ~has(areas > _NO_AREA)) | has(is_empty, of_mask)}
    has_sides = (boxes[:, 2:] != 0).all(1)
    within_one = (_is_within_one(extents, sizes) & has_sides) | has(_is_within_one(polygons, sizes[owners]))
    return Geometry(errors, no_area, {WITHIN_ONE: within_one})


def _is_flat(extents: Floats, sizes: Floats) -> Flags:
    """Whether nothing of a box lies in its image, to which Detectron2 clips it."""
    low, high = extents[:, :2].clip(min=0), np.minimum(extents[:, 2:], sizes)
    return (high - low <= _NO_LENGTH).any(1)


def _polygons(annotations: Sequence[Record]) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Extents (P, 4) of all polygons, what is at least their area (P,), and (P,) the position of the annotation that
    each is of."""
    found = [
        (i, p) for i, a in enumerate(annotations) if isinstance(a.get("segmentation"), list) for p in a["segmentation"]
    ]
    if not found:
        return np.empty((0, 4)), np.empty(0), np.empty(0, dtype=np.int64)
    points = np.concatenate([polygon for _, polygon in found]).reshape(-1, 2)
    lengths = np.array([len(polygon) // 2 for _, polygon in found])
    starts = np.cumsum(lengths) - lengths
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    # The triangles of the first point and every side: their areas, added without signs, are 0 for points on one line.
    x, y = (points - np.repeat(points[starts], lengths, axis=0)).T
    twice = np.abs(x * np.roll(y, -1) - y * np.roll(x, -1))
    twice[starts + lengths - 1] = 0  # the last side ends in the first point
    areas = np.add.reduceat(twice, starts) / 2
    return np.concatenate([low, high], axis=1), areas, np.array([i for i, _ in found])


def _masks(annotations: Sequence[Record]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Extents (R, 4) of all masks by run lengths, and (R,) the position of the annotation that each is of."""
    found = [i for i, annotation in enumerate(annotations) if isinstance(annotation.get("segmentation"), dict)]
    boxes = np.array([box_of_rle(annotations[i]["segmentation"]) for i in found], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), np.array(found, dtype=np.int64)


def _whole(sizes: Floats) -> Floats:
    return np.concatenate([np.zeros_like(sizes), sizes], axis=1)


def _reaches_outside(extents: Floats, sizes: Floats, tolerance: float | Floats) -> Flags:
    return (extents[:, :2] < -tolerance).any(1) | (extents[:, 2:] > sizes + tolerance).any(1)


def _are_apart(extents: Floats, others: Floats) -> Flags:
    low, high = others[:, :2] - TOLERANCE, others[:, 2:] + TOLERANCE
    return (extents[:, 2:] < low).any(1) | (extents[:, :2] > high).any(1)


def _is_within_one(extents: Floats, sizes: Floats) -> Flags:
    return (extents[:, :2] >= 0).all(1) & (extents[:, 2:] <= 1).all(1) & (sizes > 2).all(1)
