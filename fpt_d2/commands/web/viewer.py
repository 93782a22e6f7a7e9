"""What the page shows, without the page: images that are read within bounds, detections, and what they looked at.

Images here are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from PIL import Image

from ...core.switch import branches_off
from ...data import read_image
from ...data.images import UNDECODABLE, check_scaling, open_image, reason
from ...engine.inference import build_predictor, class_metadata, get_inference_config
from ...errors import DatasetError
from ...paths import open_file
from ...visualization import draw_exploration, draw_predictions, explore
from ...visualization.attention import written_levels
from ..common import box_and_title, class_name, read_test_set

MAX_BYTES = 32 * 2**20
# What a camera has; the same again, decoded, for each of the few that are in the queue.
MAX_PIXELS = 64 * 10**6
# A model scales images down to about a megapixel anyway, and every mask of every object has the size of the image.
_SHOWN_PIXELS = 1_500_000
# Below it nothing is predicted; the threshold of the page is above.
MIN_SCORE = 0.05
# Results, with branches and without, which the page asks for again when only the threshold has moved.
_KEPT = 2
_MOST_SAMPLES = 100


@dataclass(frozen=True)
class Place:
    """What is asked about.

    Attributes:
        box: x1, y1, x2, y2 in pixels of the image; a point has no extent.
        title: such as "star 98%" or "pixel 12, 30".
    """

    box: tuple[float, ...]
    title: str


def viewer_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """The config for a :class:`Viewer`, frozen: it predicts all that the page's threshold may show.

    Raises:
        UserError: see :func:`fpt_d2.engine.inference.get_inference_config`.
    """
    cfg = get_inference_config(config_file, opts, min_score=MIN_SCORE)
    cfg.defrost()
    cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = 0.5  # one map, in which no threshold can be moved
    cfg.freeze()
    return cfg


class Viewer:
    """A trained model behind the page. One image is computed at a time, whoever asks."""

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: of :func:`viewer_config`.

        Raises:
            UserError: weights that cannot be read or lack part of the model.
        """
        self._predictor = build_predictor(cfg)
        self.metadata = class_metadata(cfg, self._predictor.classes)
        self._samples = _sample_files(cfg)
        self._results: OrderedDict[tuple[str, bool], dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()
        self.levels = written_levels(self._predictor.model)

    @property
    def num_samples(self) -> int:
        """How many images of the config's test set are at hand."""
        return len(self._samples)

    def sample(self, number: int) -> np.ndarray:
        """An image of the test set, round and round."""
        return self.read(self._samples[number % len(self._samples)])

    def read(self, path: str | os.PathLike[str]) -> np.ndarray:
        """Read an image as training does, scaled down to what the page shows.

        Raises:
            DatasetError: it is not an image, is damaged, too large or too thin, in a sentence without the folder.
        """
        name = os.path.basename(path)
        try:
            if (size := os.path.getsize(path)) > MAX_BYTES:
                raise DatasetError(
                    f"{name} has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} that this page takes: "
                    "scale it down"
                )
            with open_file(path) as file, open_image(file) as image:
                width, height = image.size
        except UNDECODABLE as error:
            raise DatasetError(f"{name} cannot be read: {reason(error)}") from error
        if width * height > MAX_PIXELS:
            raise DatasetError(
                f"{name} has {width} x {height} pixels, more than the {MAX_PIXELS / 1e6:.0f} million that this page "
                "takes: scale it down"
            )
        try:
            pixels = read_image(path, "RGB")
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(path), name)) from error
        check_scaling(name, pixels, [self._predictor.aug])
        return _shrink(pixels)

    def detect(self, image: np.ndarray, *, branches: bool = True) -> dict[str, Any]:
        """The model's output, on the CPU; without the branches that of the FPN with the same weights."""
        key = hashlib.sha256(image.tobytes()).hexdigest(), branches
        with self._lock:
            if key not in self._results:
                with nullcontext() if branches else branches_off(self._predictor.model):
                    outputs = self._predictor(image[:, :, ::-1])
                self._results[key] = {name: _on_cpu(value) for name, value in outputs.items()}
                if len(self._results) > _KEPT:
                    self._results.popitem(last=False)
            self._results.move_to_end(key)
            return self._results[key]

    def draw(self, image: np.ndarray, min_score: float, *, branches: bool = True) -> np.ndarray:
        """What the model detects, drawn; small images enlarged."""
        outputs = self.detect(image, branches=branches)
        return draw_predictions(image, outputs, self.metadata, scale=scale_of(image), min_score=min_score)

    def objects(self, image: np.ndarray, min_score: float) -> list[tuple[str, float]]:
        """Names and scores of the detections, the surest first."""
        found = self._found(image, min_score)
        labels, scores = found.pred_classes.tolist(), found.scores.tolist()
        return [(class_name(self.metadata, label), score) for label, score in zip(labels, scores)]

    def nth(self, image: np.ndarray, min_score: float, number: int) -> Place:
        """The detection ``number`` of :meth:`objects`, from 0."""
        return Place(*box_and_title(self._found(image, min_score), number, self.metadata))

    def place_at(self, image: np.ndarray, min_score: float, x: float, y: float, *, objects: bool = True) -> Place:
        """The smallest detection at a pixel; the pixel itself where there is none, or not ``objects``."""
        pixel = Place((x, y, x, y), f"pixel {x:.0f}, {y:.0f}")
        found = self._found(image, min_score)
        if not objects or not len(found):
            return pixel
        x1, y1, x2, y2 = found.pred_boxes.tensor.unbind(1)
        areas = found.pred_boxes.area().masked_fill(~((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)), math.inf)
        number = int(areas.argmin())
        return pixel if math.isinf(float(areas[number])) else self.nth(image, min_score, number)

    def look(self, image: np.ndarray, place: Place, level: str | None = None) -> Image.Image:
        """The picture of what a place looked at.

        Raises:
            UserError: see :func:`fpt_d2.visualization.explore`.
        """
        with self._lock:
            exploration = explore(self._predictor, image[:, :, ::-1], place.box, level=level)
        file = io.BytesIO()
        draw_exploration(image, place.box, exploration, file, title=place.title)
        return Image.open(file)

    def _found(self, image: np.ndarray, min_score: float) -> Instances:
        outputs = self.detect(image)
        if "instances" not in outputs:  # semantic segmentation
            return Instances(image.shape[:2], pred_boxes=Boxes([]), scores=torch.zeros(0), pred_classes=torch.zeros(0))
        found = outputs["instances"]
        found = found[found.scores >= min_score]
        return found[found.scores.argsort(descending=True)]


def scale_of(image: np.ndarray) -> float:
    """How many times larger an image is drawn: a small one until its labels have room."""
    return float(max(1.0, 640 / image.shape[1]))


def _shrink(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    factor = math.sqrt(_SHOWN_PIXELS / (height * width))
    if factor >= 1:
        return image
    size = max(1, round(factor * width)), max(1, round(factor * height))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _on_cpu(value: Any) -> Any:
    if isinstance(value, tuple):  # panoptic: a map and what is in it
        return tuple(_on_cpu(item) for item in value)
    return value.to("cpu") if hasattr(value, "to") else value


def _sample_files(cfg: CfgNode) -> list[str]:
    """Images of the first test set, none where it is not at hand."""
    try:
        records, _ = read_test_set(cfg, _MOST_SAMPLES)
    except (OSError, ValueError):
        return []
    return [file for record in records if os.path.exists(file := record["file_name"])]
