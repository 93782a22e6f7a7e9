"""Objects of a synthetic scene as COCO annotations.

Shape legend: H, W are the image's height and width; s is `SUPERSAMPLING`.
"""

from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from .scene import SUPERSAMPLING, SceneObject, shrink_mask
from .shapes import CATEGORIES

_SMALLEST = SUPERSAMPLING**2  # mask pixels: holes and splinters below one image pixel are not annotated


def coco_categories() -> list[dict[str, Any]]:
    """The ``categories`` of the annotation file, ids from 1."""
    return [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, start=1)]


def coco_annotation(scene_object: SceneObject, height: int, width: int) -> dict[str, Any]:
    """What can be seen of an object as a COCO annotation, still without ``id`` and ``image_id``.

    A crowd is an uncompressed RLE as in COCO; an object with a hole, which polygons cannot express, a compressed
    RLE; everything else polygons. Area and box are those of the mask that pycocotools decodes from it.
    """
    mask = np.asfortranarray(shrink_mask(scene_object.visible, height, width) >= 0.5, dtype=np.uint8)
    rle = mask_util.encode(mask)
    segmentation: Any = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    if scene_object.iscrowd:
        segmentation["counts"] = _uncompressed_counts(mask)
    elif polygons := _polygons(scene_object.visible):
        segmentation = polygons
        rle = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    return {
        "category_id": scene_object.category + 1,
        "segmentation": segmentation,
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "iscrowd": int(scene_object.iscrowd),
    }


def _uncompressed_counts(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask (H, W), column by column, the first run being of zeros."""
    flat = np.concatenate([[0], mask.ravel(order="F")])
    starts = np.flatnonzero(np.diff(flat))
    return np.diff(np.concatenate([[0], starts, [mask.size]])).tolist()


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines of a mask (sH, sW) as [x1, y1, x2, y2, ...] in image pixels; none if the mask has a hole."""
    contours, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0]):
        if cv2.contourArea(contour) < _SMALLEST:
            continue
        if parent >= 0:
            return []
        corners = cv2.approxPolyDP(contour, epsilon=1.0, closed=True)[:, 0]
        if len(corners) >= 3:
            polygons.append(np.round((corners + 0.5) / SUPERSAMPLING, 2).ravel().tolist())
    return polygons
