"""Objects of a synthetic scene as COCO annotations: instances, keypoints, panoptic segments.

Shape legend: H, W are the image's height and width; s is `SUPERSAMPLING`.
"""

from __future__ import annotations

import json
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from .classes import CATEGORIES, CONTEXT_DETECTION, KEYPOINT_CATEGORY, KEYPOINTS, PATTERNS
from .scene import SUPERSAMPLING, Scene, SceneObject, shrink_mask

_SMALLEST = SUPERSAMPLING**2  # mask pixels: holes and splinters below one image pixel are not annotated


def categories_of(kind: str) -> list[dict[str, Any]]:
    """The ``categories`` of the annotation file of ``instances``, of ``keypoints`` or of ``panoptic`` segments."""
    if kind == "keypoints":
        # Pairs of keypoints to draw a line between, from 1: the outline.
        skeleton = [[k, k % len(KEYPOINTS) + 1] for k in range(1, len(KEYPOINTS) + 1)]
        category = {"id": 1, "name": KEYPOINT_CATEGORY, "supercategory": "shape"}
        return [category | {"keypoints": list(KEYPOINTS), "skeleton": skeleton}]
    shapes = [{"id": i, "name": name, "supercategory": "shape"} for i, name in enumerate(CATEGORIES, start=1)]
    if kind == "instances":
        return shapes
    things = [category | {"isthing": 1} for category in shapes]
    first = len(things) + 1
    return things + [
        {"id": i, "name": name, "supercategory": "background", "isthing": 0} for i, name in enumerate(PATTERNS, first)
    ]


def context_categories(difficulty: str) -> list[dict[str, Any]]:
    """The ``categories`` of a data set for detection in context."""
    kinds = zip(("ordinary", "context"), CONTEXT_DETECTION[difficulty])
    named = [(name, kind) for kind, names in kinds for name in names]
    return [{"id": i, "name": name, "supercategory": kind} for i, (name, kind) in enumerate(named, start=1)]


def annotation_file(
    description: str,
    seed: int,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: list[dict[str, Any]],
) -> str:
    """The JSON text of an annotation file."""
    content = {
        "info": {"description": description, "version": "1.0", "seed": seed},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    return json.dumps(content)


def coco_annotation(scene_object: SceneObject, height: int, width: int) -> dict[str, Any]:
    """What can be seen of an object as a COCO annotation, still without ``id`` and ``image_id``.

    A crowd is an uncompressed RLE as in COCO; an object with a hole, which polygons cannot express, a compressed
    RLE; everything else polygons. Area and box are those of the mask that pycocotools decodes.
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


def coco_keypoints(scene_object: SceneObject, height: int, width: int) -> dict[str, Any]:
    """``keypoints`` (x, y, visibility of each tip) and ``num_keypoints`` of a star, and the category they are of.

    Coordinates are COCO's, in which the center of the first pixel is 0, and so is the visibility: 2 of a tip that can
    be seen, 1 of one hidden by another shape, and 0, with x and y, of one beyond the image's border, or of a crowd's.
    """
    if scene_object.outline is None:
        return {"category_id": 1, "keypoints": [0] * (3 * len(KEYPOINTS)), "num_keypoints": 0}
    tips = scene_object.outline[::2]
    center = tips.mean(axis=0)
    keypoints: list[float] = []
    for tip in tips:
        if not (0 <= tip[0] < width and 0 <= tip[1] < height):
            keypoints += [0, 0, 0]
            continue
        # Too thin to fill a pixel of the mask at its very end.
        column, row = (SUPERSAMPLING * (tip + 0.1 * (center - tip))).astype(int)
        keypoints += [*np.round(tip - 0.5, 2).tolist(), 2 if scene_object.visible[row, column] else 1]
    return {"category_id": 1, "keypoints": keypoints, "num_keypoints": sum(v > 0 for v in keypoints[2::3])}


def panoptic_segments(scene: Scene) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Who owns each pixel: (H, W) uint8 ids, and COCO's ``segments_info`` of each id, the background last."""
    height, width = scene.pixels.shape[:2]
    background_id = len(scene.objects) + 1
    ids = np.full((height, width), background_id, dtype=np.uint8)
    kinds = {}
    for number, scene_object in enumerate(scene.objects, start=1):
        ids[shrink_mask(scene_object.visible, height, width) >= 0.5] = number
        kinds[number] = (scene_object.category + 1, int(scene_object.iscrowd))
    kinds[background_id] = (len(CATEGORIES) + 1 + PATTERNS.index(scene.background), 0)
    segments = []
    for number, (category, iscrowd) in kinds.items():
        mask = ids == number
        if mask.any():
            box = cv2.boundingRect(mask.astype(np.uint8))
            segment = {"id": number, "category_id": category, "area": int(mask.sum()), "bbox": list(box)}
            segments.append(segment | {"iscrowd": iscrowd})
    return ids, segments


def _uncompressed_counts(mask: np.ndarray) -> list[int]:
    """Run lengths of a mask (H, W), column by column, the first run being of zeros."""
    starts = np.flatnonzero(np.diff(mask.ravel(order="F"), prepend=0))
    counts: list[int] = np.diff(starts, prepend=0, append=mask.size).tolist()
    return counts


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
