"""Predictions and ground truth drawn with Detectron2's Visualizer. Pictures are (H, W, 3) RGB uint8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import BitMasks, BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib.colors import to_rgb
from PIL import Image

from .labels import Label, can_write_labels, write_labels

_TINT = 0.6  # how much of a class's color is over the picture


class _Canvas(Visualizer):
    """A Visualizer that enlarges smoothly, colors by class, and writes all labels at the end, beside each other."""

    _ALPHA = 0.4

    def __init__(self, image: np.ndarray, metadata: Metadata, scale: float, *, class_names: bool = True) -> None:
        super().__init__(image, metadata, scale)
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        # Otherwise the enlarged image would show square pixels.
        self._enlarged = np.asarray(Image.fromarray(self.img).resize(size, Image.Resampling.BICUBIC))
        self.output.reset_image(self._enlarged)
        self._class_names = class_names
        self._labels: list[Label] = []

    def draw_text(self, text: str, position: Sequence[float], *, color: Any = "g", **kwargs: Any) -> Any:
        """Keep the name of a class, which Detectron2 places in the middle of its mask."""
        if not can_write_labels():
            return super().draw_text(text, position, color=color, **kwargs)
        self._add_label(text, position, color, centered=True)
        return self.output

    def _add_label(self, text: str, position: Sequence[float], color: Any, *, centered: bool = False) -> None:
        x, y = (self.output.scale * side for side in position)
        self._labels.append(Label(text, x, y, tuple(round(255 * c) for c in to_rgb(color)), centered))

    def draw_sem_seg(self, sem_seg: Any, area_threshold: Any = None, alpha: float = 0.5) -> Any:
        """Tint every class in its color, whose borders Detectron2 would draw as polygons, and write its name."""
        labels, colors = np.asarray(sem_seg), class_colors(self.metadata)
        self.output.reset_image(tint_classes(self._enlarged, labels, colors))
        if self._class_names:
            for label in set(np.unique(labels).tolist()) & set(range(len(colors))):
                name = self.metadata.stuff_classes[label]
                self._draw_text_in_mask((labels == label).astype(np.uint8), name, tuple(colors[label] / 255))
        return self.output

    def draw_panoptic_seg(self, panoptic_seg: Any, segments_info: Any, *args: Any, **kwargs: Any) -> Any:
        """Things in the colors of their classes, too, where Detectron2 takes colors at random."""
        if segments_info is None:
            return super().draw_panoptic_seg(panoptic_seg, segments_info, *args, **kwargs)
        segments, things = torch.as_tensor(panoptic_seg), [info for info in segments_info if info["isthing"]]
        stuff = [info for info in segments_info if not info["isthing"]]
        super().draw_panoptic_seg(segments, stuff, *args, **kwargs)
        if things:
            masks = torch.stack([segments == info["id"] for info in things])
            suffixes = [f" {info['score']:.0%}" if "score" in info else "" for info in things]
            classes = [info["category_id"] for info in things]
            self.draw_objects(classes, suffixes, BitMasks(masks).get_bounding_boxes(), masks)
        return self.output

    def draw_objects(
        self, classes: Sequence[int], suffixes: Sequence[str], boxes: Any, masks: Any = None, keypoints: Any = None
    ) -> None:
        """Draw N instances as :func:`draw_objects` does, with N texts that follow the names of their classes."""
        names = self.metadata.get("thing_classes") or {}
        palette = self.metadata.get("thing_colors") or colormap(rgb=True)
        colors = [tuple(np.asarray(palette[c % len(palette)]) / 255) for c in classes]
        for mask, color in zip(() if masks is None else masks, colors):
            generic = GenericMask(np.asarray(mask) if torch.is_tensor(mask) else mask, *self.img.shape[:2])
            if generic.has_holes:  # as polygons its holes would be filled
                self.draw_binary_mask(generic.mask, color, alpha=self._ALPHA)
            else:
                for polygon in generic.polygons:
                    self.draw_polygon(polygon.reshape(-1, 2), color, alpha=self._ALPHA)
        labels = [f"{names[c] if c < len(names) else c}{suffix}" for c, suffix in zip(classes, suffixes)]
        placed = None if can_write_labels() else labels
        self.overlay_instances(boxes=boxes, labels=placed, assigned_colors=colors, keypoints=keypoints)
        if placed is None:
            boxes = self._convert_boxes(boxes)
            corners = boxes[:, :2] - boxes[:, 2:4] / 2 if boxes.shape[1] == 5 else boxes[:, :2]  # 5: rotated
            for label, corner, color in zip(labels, corners, colors):
                self._add_label(label, corner, color)

    def get_image(self) -> np.ndarray:
        return write_labels(self.output.get_image(), self._labels)


def draw_objects(
    image: np.ndarray,
    metadata: Metadata,
    classes: Sequence[int],
    scores: Sequence[float] = (),
    *,
    boxes: Any,
    masks: Any = None,
    keypoints: Any = None,
    sem_seg: Any = None,
) -> np.ndarray:
    """Draw N objects in the colors of their classes, with the names of these, or their numbers.

    Args:
        scores: N, or none.
        boxes, keypoints: of N objects, as Detectron2's ``overlay_instances`` takes them.
        masks: N polygons, RLEs or (H, W) bitmaps.
        sem_seg: (H, W) semantic classes, which are drawn below.
    """
    canvas = _Canvas(image, metadata, 1.0)
    if sem_seg is not None:
        canvas.draw_sem_seg(sem_seg)
    if len(classes):
        suffixes = [f" {score:.0%}" for score in scores] or [""] * len(classes)
        canvas.draw_objects(classes, suffixes, boxes, masks, keypoints)
    return canvas.get_image()


def draw_predictions(
    image: np.ndarray,
    outputs: dict[str, Any],
    metadata: Metadata,
    *,
    scale: float = 1.0,
    min_score: float = 0.5,
    class_names: bool = True,
) -> np.ndarray:
    """Draw a model's output over its image.

    Args:
        outputs: ``instances``, ``sem_seg`` or ``panoptic_seg``.
        scale: how many times larger than the image the picture is.
        min_score: instances below this score are left out.
        class_names: write the names of semantic classes on them.
    """
    canvas = _Canvas(image, metadata, scale, class_names=class_names)
    if "panoptic_seg" in outputs:
        segments, infos = outputs["panoptic_seg"]
        canvas.draw_panoptic_seg(segments.cpu(), infos)
        return canvas.get_image()
    if "sem_seg" in outputs:
        canvas.draw_sem_seg(outputs["sem_seg"].argmax(dim=0).cpu())
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        instances = instances[instances.scores >= min_score]
        masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else []
        scores = [f" {score:.0%}" for score in instances.scores.tolist()]
        keypoints = instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None
        canvas.draw_objects(instances.pred_classes.tolist(), scores, instances.pred_boxes, masks, keypoints)
    return canvas.get_image()


def draw_ground_truth(
    image: np.ndarray,
    dataset_dict: dict[str, Any],
    metadata: Metadata,
    *,
    scale: float = 1.0,
    class_names: bool = True,
) -> np.ndarray:
    """Draw an image's annotations, in Detectron2's dataset format, over it, as :func:`draw_predictions` does."""
    canvas = _Canvas(image, metadata, scale, class_names=class_names)
    annotations = dataset_dict.get("annotations", [])
    if annotations:
        boxes = np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations])
        masks = [a["segmentation"] for a in annotations] if all("segmentation" in a for a in annotations) else []
        crowd = [" (crowd)" if a.get("iscrowd") else "" for a in annotations]
        has_keypoints = all("keypoints" in a for a in annotations)
        keypoints = np.reshape([a["keypoints"] for a in annotations], (len(boxes), -1, 3)) if has_keypoints else None
        canvas.draw_objects([a["category_id"] for a in annotations], crowd, boxes, masks, keypoints)
    # Semantic and panoptic annotations.
    canvas.draw_dataset_dict({key: value for key, value in dataset_dict.items() if key != "annotations"})
    return canvas.get_image()


def class_colors(metadata: Metadata) -> np.ndarray:
    """(K, 3) RGB in 0..255 of the classes that ``metadata`` names: their ``stuff_colors``, else Detectron2's."""
    colors = metadata.get("stuff_colors") or colormap(rgb=True)
    return np.array([colors[i % len(colors)] for i in range(len(metadata.stuff_classes))])


def tint_classes(picture: np.ndarray, labels: Any, colors: np.ndarray) -> np.ndarray:
    """Tint a picture (H, W, 3) by class and draw the borders between classes in white.

    ``labels`` (h, w) are brought to the picture's size. Where one is not an index into ``colors`` (K, 3), the picture
    stays.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray(np.asarray(labels).astype(np.int32))
    labels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    known = (labels >= 0) & (labels < len(colors))
    # Only the picture's brightness, so that its own colors are not taken for those of classes.
    gray = picture.mean(axis=2, keepdims=True)
    tinted = (1 - _TINT) * gray + _TINT * colors[np.where(known, labels, 0)]
    tinted = np.where(known[..., None], tinted, picture)
    border = np.zeros((height, width), dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    tinted[border] = 255
    return np.round(tinted).astype(np.uint8)
