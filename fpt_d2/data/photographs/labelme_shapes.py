"""The objects that the shapes of a LabelMe file are."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..findings import excerpt
from ..images import UNDECODABLE, open_image, reason
from .instances import ReadImage

_OUTLINES = ("polygon", "rectangle", "circle", "oriented_rectangle")
_CIRCLE_POINTS = 72  # whose polygon has 0.999 of the circle's area

Shape = Mapping[str, Any]


def add_shapes(image: ReadImage, shapes: Sequence[Any], file: Path, read_shapes: Callable[..., Any]) -> None:
    """Add an object for each shape, or for all of one label and group.

    Args:
        read_shapes: supervision's ``labelme_shapes_to_detections``.
    """
    groups: dict[tuple[str, object], list[Shape]] = {}
    first: dict[tuple[str, object], str] = {}
    for number, shape in enumerate(shapes, start=1):
        where = f"{file} shape {number}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            image.problems.append(("shape has no label that is text", where))
            continue
        kind = shape.get("shape_type") or "polygon"  # LabelMe's first versions had no other
        if kind not in (*_OUTLINES, "mask"):
            image.left_out.append((f"shape of type {short(kind)}", where))
            continue
        key: tuple[str, object] = label.strip(), number if shape.get("group_id") is None else repr(shape["group_id"])
        first.setdefault(key, where)
        groups.setdefault(key, []).append({**shape, "label": key[0], "shape_type": kind, "group_id": 0})
    for key, members in groups.items():
        try:
            _add_object(image, members, first[key], read_shapes)
        except _Malformed as error:
            where = f"{first[key]} ({excerpt(error)})"
            image.problems.append(("shape is not of LabelMe's form, points [[x, y], ...]", where))


class _Malformed(Exception):
    """What is wrong with a shape."""


def _add_object(image: ReadImage, members: Sequence[Shape], where: str, read_shapes: Callable[..., Any]) -> None:
    label, masks = str(members[0]["label"]), [_mask(m, image.size) for m in members if m["shape_type"] == "mask"]
    outlines = [_as_polygon_or_rectangle(m, image.size) for m in members if m["shape_type"] != "mask"]
    corners = _corners(outlines, label, image.size, read_shapes) if outlines else (0.0, 0.0, 0.0, 0.0)
    is_box = all(outline["shape_type"] == "rectangle" for outline in outlines)
    polygons = [_points(outline) for outline in outlines]
    if masks:
        flat = [polygon.ravel().tolist() for polygon in polygons]
        height, width = masks[0].shape
        masks += (
            [mask_util.decode(rle).astype(bool) for rle in mask_util.frPyObjects(flat, height, width)] if flat else []
        )
        image.add_mask(label, np.any(masks, axis=0), where)
    else:
        image.add(label, corners, where, polygons=[] if is_box else polygons)


def _corners(
    outlines: Sequence[Shape], label: str, size: tuple[int, int], read_shapes: Callable[..., Any]
) -> Sequence[float]:
    """The box around outlines, as the library reads it. Raises _Malformed if it cannot."""
    try:
        corners: list[float] = read_shapes(outlines, {label: 0}, size, with_masks=False).xyxy[0].tolist()
    except (ValueError, TypeError, OverflowError) as error:
        raise _Malformed(error) from error
    return corners


def _as_polygon_or_rectangle(shape: Shape, size: tuple[int, int]) -> Shape:
    """The shape as the library knows it: a circle, of a center and a point on it, becomes a polygon in the image."""
    if shape["shape_type"] == "rectangle":
        return shape
    if shape["shape_type"] != "circle":
        return {**shape, "shape_type": "polygon"}
    center, edge = _two_points(shape)
    angles = np.linspace(0, 2 * np.pi, _CIRCLE_POINTS, endpoint=False)
    points = center + np.hypot(*(edge - center)) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return {**shape, "shape_type": "polygon", "points": np.clip(points, 0, size).tolist()}


def _points(outline: Shape) -> np.ndarray:
    """The points (N, 2) of an outline that the library has read."""
    points = np.array(outline["points"], dtype=float)
    if outline["shape_type"] == "polygon":
        return points
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _two_points(shape: Shape) -> np.ndarray:
    try:
        points = np.array(shape.get("points"), dtype=float)
    except (ValueError, TypeError, OverflowError) as error:
        raise _Malformed(error) from error
    if points.shape != (2, 2) or not np.isfinite(points).all():
        raise _Malformed(f"a {shape['shape_type']} has two points of two numbers")
    return points


def _mask(shape: Shape, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of an image, of which the file has the part in a rectangle, as a PNG."""
    x, y = np.round(_two_points(shape).min(axis=0)).astype(int)
    try:
        with open_image(io.BytesIO(base64.b64decode(str(shape.get("mask")), validate=True))) as opened:
            part = np.asarray(opened.convert("L")) > 0
    except UNDECODABLE as error:
        raise _Malformed(f"its mask is not an image: {reason(error)}") from error
    mask = np.zeros(size[::-1], dtype=bool)
    if min(x, y) < 0 or x + part.shape[1] > size[0] or y + part.shape[0] > size[1]:
        raise _Malformed("its mask reaches outside the image")
    mask[y : y + part.shape[0], x : x + part.shape[1]] = part
    return mask
