"""Predictions and ground truth drawn with Detectron2's Visualizer."""

from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import GenericMask, Visualizer
from PIL import Image

from .sem_seg import class_colors, tint_classes


class _Canvas(Visualizer):
    """A Visualizer that enlarges smoothly and writes every label in one legible size, whatever the image's size."""

    _LABEL_POINTS = 9
    _ALPHA = 0.4

    def __init__(self, image: np.ndarray, metadata: Metadata, scale: float, *, class_names: bool = True) -> None:
        super().__init__(image, metadata, scale)
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        # Otherwise the enlarged image would show square pixels.
        self._enlarged = np.asarray(Image.fromarray(self.img).resize(size, Image.Resampling.BICUBIC))
        self.output.reset_image(self._enlarged)
        self._class_names = class_names

    def draw_text(
        self, text: str, position: Sequence[float], *, font_size: Optional[float] = None, **kwargs: Any
    ) -> Any:
        # output.scale multiplies font sizes; heights of objects shall not.
        super().draw_text(text, position, font_size=self._LABEL_POINTS / self.output.scale, **kwargs)
        label = self.output.ax.texts[-1]
        box = label.get_window_extent(self.output.canvas.get_renderer())
        # Into the picture, beyond whose edges Detectron2 places some. The y axis points down.
        width, height = self.output.width * self.output.scale, self.output.height * self.output.scale
        left = max(0, box.x1 - width) - max(0, -box.x0)
        up = max(0, -box.y0) - max(0, box.y1 - height)
        label.set_position(
            (label.get_position()[0] - left / self.output.scale, label.get_position()[1] - up / self.output.scale)
        )
        return self.output

    def draw_sem_seg(self, sem_seg: Any, area_threshold: Optional[int] = None, alpha: float = 0.5) -> Any:
        """Tint every class in its color, whose borders Detectron2 would draw as polygons, and write its name.

        Args:
            sem_seg: (H, W) indices of classes.
            area_threshold, alpha: of Detectron2's; not used.
        """
        labels, colors = np.asarray(sem_seg), class_colors(self.metadata)
        self.output.reset_image(tint_classes(self._enlarged, labels, colors))
        if self._class_names:
            for label in set(np.unique(labels).tolist()) & set(range(len(colors))):
                name = self.metadata.stuff_classes[label]
                self._draw_text_in_mask((labels == label).astype(np.uint8), name, tuple(colors[label] / 255))
        return self.output

    def draw_objects(
        self,
        boxes: Any,
        masks: Sequence[Any],
        classes: Sequence[int],
        suffixes: Sequence[str],
        keypoints: Optional[np.ndarray] = None,
    ) -> None:
        """Draw instances in the color of their category, so that two pictures can be compared.

        Args:
            boxes: N boxes, as :meth:`overlay_instances` takes them.
            masks: N polygons, RLEs or (H, W) bitmaps, or nothing.
            classes: N indices of categories. suffixes: N texts to follow the category's name.
            keypoints: (N, K, 3), x, y and whether they can be seen, or nothing.
        """
        names = self.metadata.get("thing_classes") or {}
        palette = self.metadata.get("thing_colors") or colormap(rgb=True)
        colors = [tuple(np.asarray(palette[c % len(palette)]) / 255) for c in classes]
        for mask, color in zip(masks, colors):
            self._draw_mask(GenericMask(mask, self.output.height, self.output.width), color)
        labels = [f"{names[c] if c < len(names) else c}{suffix}" for c, suffix in zip(classes, suffixes)]
        self.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors, keypoints=keypoints)

    def _draw_mask(self, mask: GenericMask, color: tuple[float, ...]) -> None:
        if mask.has_holes:  # as polygons its holes would be filled
            self.draw_binary_mask(mask.mask, color, alpha=self._ALPHA)
            return
        for polygon in mask.polygons:
            self.draw_polygon(polygon.reshape(-1, 2), color, alpha=self._ALPHA)


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
        image: (H, W, 3), RGB, uint8.
        outputs: the model's output for this image: ``instances``, ``sem_seg`` or ``panoptic_seg``.
        metadata: names and colors of the categories.
        scale: how many times larger than the image the picture is.
        min_score: instances below this score are left out.
        class_names: write the names of semantic classes on them.

    Returns:
        (H * scale, W * scale, 3), RGB, uint8.
    """
    canvas = _Canvas(image, metadata, scale, class_names=class_names)
    if "panoptic_seg" in outputs:
        segments, infos = outputs["panoptic_seg"]
        canvas.draw_panoptic_seg(segments.cpu(), infos)
        return canvas.output.get_image()
    if "sem_seg" in outputs:
        canvas.draw_sem_seg(outputs["sem_seg"].argmax(dim=0).cpu())
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        instances = instances[instances.scores >= min_score]
        masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else []
        scores = [f" {score:.0%}" for score in instances.scores.tolist()]
        keypoints = instances.pred_keypoints.numpy() if instances.has("pred_keypoints") else None
        canvas.draw_objects(instances.pred_boxes, masks, instances.pred_classes.tolist(), scores, keypoints)
    return canvas.output.get_image()


def draw_ground_truth(
    image: np.ndarray,
    dataset_dict: dict[str, Any],
    metadata: Metadata,
    *,
    scale: float = 1.0,
    class_names: bool = True,
) -> np.ndarray:
    """Draw an image's annotations over it.

    Args:
        image: (H, W, 3), RGB, uint8.
        dataset_dict: the image's dict in Detectron2's dataset format.
        metadata: names and colors of the categories.
        scale: how many times larger than the image the picture is.
        class_names: write the names of semantic classes on them.

    Returns:
        (H * scale, W * scale, 3), RGB, uint8.
    """
    canvas = _Canvas(image, metadata, scale, class_names=class_names)
    annotations = dataset_dict.get("annotations", [])
    if annotations:
        boxes = np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations])
        masks = [a["segmentation"] for a in annotations] if all("segmentation" in a for a in annotations) else []
        crowd = [" (crowd)" if a.get("iscrowd") else "" for a in annotations]
        has_keypoints = all("keypoints" in a for a in annotations)
        keypoints = np.reshape([a["keypoints"] for a in annotations], (len(boxes), -1, 3)) if has_keypoints else None
        canvas.draw_objects(boxes, masks, [a["category_id"] for a in annotations], crowd, keypoints)
    # Semantic and panoptic annotations.
    canvas.draw_dataset_dict({key: value for key, value in dataset_dict.items() if key != "annotations"})
    return canvas.output.get_image()
