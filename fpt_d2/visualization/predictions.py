"""Predictions and ground truth drawn with Detectron2's Visualizer, one picture each or many as a grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib.figure import Figure
from PIL import Image

# Long side, in pixels, to which each image of a grid is brought.
_CELL = 300
_GAP = 14
_TITLE = 24
_DPI = 100


class Example(NamedTuple):
    """An image with what is known and what is predicted about it."""

    # (H, W, 3), RGB, uint8
    image: np.ndarray
    # The image's dict in Detectron2's dataset format, for its annotations.
    dataset_dict: dict[str, Any]
    # The model's output for the image, in the image's own coordinates.
    outputs: dict[str, Any]


class _Canvas(Visualizer):
    """A Visualizer that enlarges smoothly and writes every label in one legible size, whatever the image's size."""

    _LABEL_POINTS = 9
    _ALPHA = 0.4

    def __init__(self, image: np.ndarray, metadata: Metadata, scale: float) -> None:
        super().__init__(image, metadata, scale)
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        # Otherwise the enlarged image would show square pixels.
        self.output.reset_image(np.asarray(Image.fromarray(self.img).resize(size, Image.Resampling.BICUBIC)))

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

    def draw_objects(self, boxes: Any, masks: Sequence[Any], classes: Sequence[int], suffixes: Sequence[str]) -> None:
        """Draw instances in the color of their category, so that two pictures can be compared.

        Args:
            boxes: N boxes, as :meth:`overlay_instances` takes them.
            masks: N polygons, RLEs or (H, W) bitmaps, or nothing.
            classes: N indices of categories. suffixes: N texts to follow the category's name.
        """
        names = self.metadata.get("thing_classes") or {}
        palette = self.metadata.get("thing_colors") or colormap(rgb=True)
        colors = [tuple(np.asarray(palette[c % len(palette)]) / 255) for c in classes]
        for mask, color in zip(masks, colors):
            self._draw_mask(GenericMask(mask, self.output.height, self.output.width), color)
        labels = [f"{names[c] if c < len(names) else c}{suffix}" for c, suffix in zip(classes, suffixes)]
        self.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors)

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
) -> np.ndarray:
    """Draw a model's output over its image.

    Args:
        image: (H, W, 3), RGB, uint8.
        outputs: the model's output for this image: ``instances``, ``sem_seg`` or ``panoptic_seg``.
        metadata: names and colors of the categories.
        scale: how many times larger than the image the picture is.
        min_score: instances below this score are left out.

    Returns:
        (H * scale, W * scale, 3), RGB, uint8.
    """
    canvas = _Canvas(image, metadata, scale)
    if "panoptic_seg" in outputs:
        segments, infos = outputs["panoptic_seg"]
        canvas.draw_panoptic_seg(segments.cpu(), infos)
        return canvas.output.get_image()
    if "sem_seg" in outputs:
        canvas.draw_sem_seg(outputs["sem_seg"].argmax(dim=0).cpu(), alpha=0.5)
    if "instances" in outputs:
        instances = outputs["instances"].to("cpu")
        instances = instances[instances.scores >= min_score]
        masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else []
        scores = [f" {score:.0%}" for score in instances.scores.tolist()]
        canvas.draw_objects(instances.pred_boxes, masks, instances.pred_classes.tolist(), scores)
    return canvas.output.get_image()


def draw_ground_truth(
    image: np.ndarray, dataset_dict: dict[str, Any], metadata: Metadata, *, scale: float = 1.0
) -> np.ndarray:
    """Draw an image's annotations over it.

    Args:
        image: (H, W, 3), RGB, uint8.
        dataset_dict: the image's dict in Detectron2's dataset format.
        metadata: names and colors of the categories.
        scale: how many times larger than the image the picture is.

    Returns:
        (H * scale, W * scale, 3), RGB, uint8.
    """
    canvas = _Canvas(image, metadata, scale)
    annotations = dataset_dict.get("annotations", [])
    if annotations:
        boxes = np.array([BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations])
        masks = [a["segmentation"] for a in annotations] if all("segmentation" in a for a in annotations) else []
        crowd = [" (crowd)" if a.get("iscrowd") else "" for a in annotations]
        canvas.draw_objects(boxes, masks, [a["category_id"] for a in annotations], crowd)
    # Semantic and panoptic annotations.
    canvas.draw_dataset_dict({key: value for key, value in dataset_dict.items() if key != "annotations"})
    return canvas.output.get_image()


def draw_predictions_grid(
    examples: Sequence[Example],
    path: Union[str, Path],
    metadata: Metadata,
    *,
    min_score: float = 0.5,
    pairs_per_row: int = 2,
) -> None:
    """Draw ground truth and predictions of several images side by side, as one picture.

    Args:
        examples: the images; small ones are enlarged.
        path: the picture to write; its folder is made if needed.
        metadata: names and colors of the categories.
        min_score: instances below this score are left out.
        pairs_per_row: how many images stand in one row.

    Raises:
        ValueError: there are no examples.
    """
    if not examples:
        raise ValueError("There is no image to draw: give at least one example")
    pairs = []
    for example in examples:
        scale = _CELL / max(example.image.shape[:2])
        truth = draw_ground_truth(example.image, example.dataset_dict, metadata, scale=scale)
        drawn = draw_predictions(example.image, example.outputs, metadata, scale=scale, min_score=min_score)
        pairs.append((truth, drawn))
    titles = [Path(example.dataset_dict.get("file_name", "")).name for example in examples]
    _save_grid(pairs, titles, path, pairs_per_row)


def _save_grid(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], titles: Sequence[str], path: Union[str, Path], pairs_per_row: int
) -> None:
    """Lay the pairs out in rows, each under its title and the first row under those of the columns; write the PNG."""
    columns = min(pairs_per_row, len(pairs))
    heights = [max(pair[0].shape[0] for pair in pairs[i : i + columns]) for i in range(0, len(pairs), columns)]
    # A pair is narrower inside than towards its neighbor, so that the eye sees which two belong together.
    inner, pair_width = _CELL + _GAP // 2, 2 * _CELL + _GAP // 2 + 2 * _GAP
    page = _Page(width=columns * pair_width, height=2 * _TITLE + sum(heights) + len(heights) * (_TITLE + _GAP))
    top = _GAP
    for column in range(columns):
        page.write("ground truth", column * pair_width + _GAP, top, size=14, weight="bold")
        page.write("prediction", column * pair_width + _GAP + inner, top, size=14, weight="bold")
    top += _TITLE
    for index, ((truth, drawn), title) in enumerate(zip(pairs, titles)):
        row, column = divmod(index, columns)
        if row and not column:
            top += _TITLE + heights[row - 1] + _GAP
        left = column * pair_width + _GAP
        page.write(title, left, top, size=10, color="#555555")
        page.paste(truth, left, top + _TITLE)
        page.paste(drawn, left + inner, top + _TITLE)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    page.figure.savefig(path, dpi=_DPI)


class _Page:
    """A white page measured in pixels from its upper left corner."""

    def __init__(self, *, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)

    def write(self, text: str, left: int, top: int, **style: Any) -> None:
        self.figure.text(left / self.width, 1 - top / self.height, text, va="top", **style)

    def paste(self, picture: np.ndarray, left: int, top: int) -> None:
        """Pixel for pixel, which axes would resample."""
        self.figure.figimage(picture, left, self.height - top - picture.shape[0], origin="upper")
