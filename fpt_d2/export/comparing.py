"""How far a file's results are from the predictor's.

Shape legend: N objects, C classes, H x W image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from torch import Tensor

# Pixels, score, and share of a mask's pixels (of 100 at least) that may differ.
MAX_BOX, MAX_SCORE, MAX_MASK = 0.5, 1e-3, 0.02


@dataclass(frozen=True)
class Difference:
    """
    Attributes:
        boxes: largest difference of a coordinate, in pixels.
        scores: largest difference of a score, or of a class's probability.
        masks: largest share of a mask's pixels that differ.
        objects: that were compared.
    """

    boxes: float = 0.0
    scores: float = 0.0
    masks: float = 0.0
    objects: int = 0

    def is_small(self) -> bool:
        return self.boxes <= MAX_BOX and self.scores <= MAX_SCORE and self.masks <= MAX_MASK

    def __str__(self) -> str:
        masks = f", masks by {self.masks:.2%} of their pixels" if self.masks else ""
        return f"boxes by {self.boxes:.2g} pixels, scores by {self.scores:.2g}{masks}"

    @staticmethod
    def largest(differences: Iterable[Difference]) -> Difference:
        d = list(differences)
        objects = sum(x.objects for x in d)
        return Difference(max(x.boxes for x in d), max(x.scores for x in d), max(x.masks for x in d), objects)


NOT_THE_SAME = Difference(boxes=float("inf"), scores=float("inf"))


def predict(predictor: DefaultPredictor, image: np.ndarray) -> list[Tensor]:
    """What a file should return for an image (H, W, 3) in BGR."""
    result = predictor(image)
    if "sem_seg" in result:
        return [result["sem_seg"].cpu()]
    found = result["instances"].to("cpu")
    masks = [found.pred_masks] if found.has("pred_masks") else []
    return [found.pred_boxes.tensor, found.scores, found.pred_classes, *masks]


def compare(
    outputs: Sequence[Tensor], expected: Sequence[Tensor], *, limit: int = 0, threshold: float = 0
) -> Difference:
    """The difference of detections, whatever their order, or of logits (C, H, W).

    An object is compared with the nearest one of its class. One that the other side lacks counts unless its score is
    at the edge, where rounding decides: at the threshold or, where there are as many objects as allowed, at the lowest.

    Args:
        outputs, expected: boxes, scores, classes and perhaps masks; or logits alone.
        limit: of the number of objects.
        threshold: of their scores.
    """
    outputs = [x.cpu() for x in outputs]
    if len(outputs) != len(expected) or any(
        a.dtype != b.dtype or a.dim() != b.dim() for a, b in zip(outputs, expected)
    ):
        return NOT_THE_SAME
    if len(expected) == 1:
        if outputs[0].shape != expected[0].shape:
            return NOT_THE_SAME
        return Difference(scores=float((outputs[0].softmax(0) - expected[0].softmax(0)).abs().max()))
    a, b = _one_way(outputs, expected, limit, threshold), _one_way(expected, outputs, limit, threshold)
    return Difference(max(a.boxes, b.boxes), max(a.scores, b.scores), max(a.masks, b.masks), b.objects)


def _one_way(objects: Sequence[Tensor], others: Sequence[Tensor], limit: int, threshold: float) -> Difference:
    """Of each of ``objects`` from the nearest of ``others``."""
    (boxes, scores, classes), (other_boxes, other_scores, other_classes) = objects[:3], others[:3]
    if len(boxes) == 0:
        return Difference()
    edge = float(scores.min()) if len(scores) == limit else threshold
    at_edge = scores <= edge + MAX_SCORE
    far = torch.where(classes[:, None] == other_classes, 0.0, float("inf"))
    by_box = (boxes[:, None] - other_boxes).abs().amax(2) + far
    by_score = (scores[:, None] - other_scores).abs()
    # Boxes of one place differ by their scores.
    nearest = torch.cat((by_box + 1e3 * by_score, torch.full((len(boxes), 1), 1e30)), 1).argmin(1)
    has_one = nearest < len(other_boxes)
    near = nearest.clamp(max=max(len(other_boxes) - 1, 0))
    rows = torch.arange(len(boxes))
    d_box = by_box[rows, near] if len(other_boxes) else torch.full((len(boxes),), float("inf"))
    d_score = by_score[rows, near] if len(other_boxes) else torch.full((len(boxes),), float("inf"))
    counts = ~(at_edge & (~has_one | (d_box > MAX_BOX) | (d_score > MAX_SCORE)))
    if not counts.any():
        return Difference()
    masks = 0.0
    if len(objects) == 4 and len(other_boxes):
        masks = max(_mask_difference(objects[3][i], others[3][near[i]]) for i in rows[counts])
    return Difference(float(d_box[counts].max()), float(d_score[counts].max()), masks, int(counts.sum()))


def _mask_difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    return float((a ^ b).sum() / max(int(a.sum()), int(b.sum()), 100))
