"""A trained model that draws what it predicts on images and on videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ...engine.inference import build_predictor, class_metadata
from ...errors import UserError
from ...visualization import draw_predictions

_DRAWN = {"instances", "sem_seg", "panoptic_seg"}


class VisualizationDemo:
    """Predict and draw, one image or frame at a time.

    Detectron2's own demo can also predict in further processes while it draws. That only pays off on several GPUs,
    and is left out here.

    Args:
        cfg: the config of a trained model.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.predictor = build_predictor(cfg)
        self.metadata = class_metadata(cfg, self.predictor.classes)
        # What images go through before the model sees them.
        self.augmentations = [self.predictor.aug]
        if cfg.TEST.AUG.ENABLED:
            self.augmentations.append(T.ResizeShortestEdge(min(cfg.TEST.AUG.MIN_SIZES), cfg.TEST.AUG.MAX_SIZE))

    def run_on_image(self, image: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
        """Predict on one image and draw all that the model puts out.

        Args:
            image: (H, W, 3), BGR, uint8.

        Returns:
            The model's output, and the picture: (H, W, 3), RGB, uint8.

        Raises:
            UserError: nothing of the output can be drawn.
        """
        outputs = self.predictor(image)
        if not _DRAWN & outputs.keys():
            raise UserError(f"The model puts out {sorted(outputs)}: only {', '.join(sorted(_DRAWN))} can be drawn")
        # The predictor has left out what is below the threshold.
        return outputs, draw_predictions(image[:, :, ::-1], outputs, self.metadata, min_score=0)

    def run_on_video(self, video: cv2.VideoCapture) -> Iterator[np.ndarray]:
        """Predict on each frame of a video file or a webcam and draw the result.

        Args:
            video: an opened video.

        Yields:
            (H, W, 3), BGR, uint8: the frames with the predictions drawn.
        """
        while True:
            success, frame = video.read()
            if not success:
                return
            _, picture = self.run_on_image(frame)
            yield np.ascontiguousarray(picture[:, :, ::-1])
