"""Heads for semantic segmentation over levels of one size, which importing this registers, and ways of inference."""

from .build import build_aspp_head, build_oc_head, build_ppm_head, build_ufp_head
from .context import ObjectContext, PyramidPooling
from .head import PyramidSegHead
from .inference import SemanticSegmentorWithTTA, SlidingWindow

__all__ = [
    "ObjectContext",
    "PyramidPooling",
    "PyramidSegHead",
    "SemanticSegmentorWithTTA",
    "SlidingWindow",
    "build_aspp_head",
    "build_oc_head",
    "build_ppm_head",
    "build_ufp_head",
]
