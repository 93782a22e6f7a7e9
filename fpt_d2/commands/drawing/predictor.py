"""A trained model that draws what it predicts on images and on videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer

from ...engine.inference import build_predictor, class_metadata
from ...errors import UserError


class VisualizationDemo:
    """Predict and draw, one image or frame at a time.

    Detectron2's own demo can also predict in further processes while it draws. That only pays off on several GPUs,
    and is left out here.

    Args:
        cfg: the config of a trained model.
        instance_mode: how Detectron2's visualizers color instances.
    """

    def __init__(self, cfg: CfgNode, instance_mode: ColorMode = ColorMode.IMAGE) -> None:
        self.instance_mode = instance_mode
        self.predictor = build_predictor(cfg)
        self.metadata = class_metadata(cfg, self.predictor.classes)
        # What images go through before the model sees them.
        self.augmentations = [self.predictor.aug]
        if cfg.TEST.AUG.ENABLED:
            self.augmentations.append(T.ResizeShortestEdge(min(cfg.TEST.AUG.MIN_SIZES), cfg.TEST.AUG.MAX_SIZE))

    def run_on_image(self, image: np.ndarray) -> tuple[dict[str, Any], VisImage]:
        """Predict on one image and draw the result.

        Args:
            image: (H, W, 3), BGR, uint8.

        Returns:
            The model's output, and the picture.
        """
        outputs = self.predictor(image)
        visualizer = Visualizer(image[:, :, ::-1], self.metadata, instance_mode=self.instance_mode)
        return outputs, _draw(outputs, visualizer)

    def run_on_video(self, video: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Predict on each frame of a video file or a webcam and draw the result.

        Args:
            video: an opened video.

        Yields:
            (H, W, 3), BGR, uint8: the frames with the predictions drawn.
        """
        # It keeps an object's color from frame to frame.
        visualizer = VideoVisualizer(self.metadata, self.instance_mode)
        while True:
            success, frame = video.read()
            if not success:
                return
            drawn = _draw(self.predictor(frame), visualizer, frame[:, :, ::-1])
            yield np.ascontiguousarray(drawn.get_image()[:, :, ::-1])


def _draw(outputs: dict[str, Any], visualizer: Visualizer | VideoVisualizer, *frame: np.ndarray) -> VisImage:
    """Draw all that a model put out. A VideoVisualizer takes the frame as first argument, a Visualizer none."""
    drawn = None
    if "panoptic_seg" in outputs:
        segments, infos = outputs["panoptic_seg"]
        return visualizer.draw_panoptic_seg_predictions(*frame, segments.cpu(), infos)
    if "sem_seg" in outputs:
        drawn = visualizer.draw_sem_seg(*frame, outputs["sem_seg"].argmax(dim=0).cpu())
    if "instances" in outputs:
        drawn = visualizer.draw_instance_predictions(*frame, outputs["instances"].to("cpu"))
    if drawn is None:
        raise UserError(f"The model puts out {sorted(outputs)}: only instances, sem_seg and panoptic_seg can be drawn")
    return drawn
