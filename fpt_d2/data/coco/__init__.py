"""Annotation files in COCO format: read once, checked by a schema, and handed to Detectron2 as they were read."""

from .file import CocoFile
from .keypoints import keypoint_names, set_keypoints
from .reading import ground_truth, load_instances, read_coco, use_what_is_read

__all__ = [
    "CocoFile",
    "ground_truth",
    "keypoint_names",
    "load_instances",
    "read_coco",
    "set_keypoints",
    "use_what_is_read",
]
