"""Which evaluator measures which data set."""

from .build import build_evaluator, check_cityscapes, check_evaluator, has_rotated_boxes, metric_names
from .coco import COCOEvaluator

__all__ = [
    "COCOEvaluator",
    "build_evaluator",
    "check_cityscapes",
    "check_evaluator",
    "has_rotated_boxes",
    "metric_names",
]
