"""Heads for semantic segmentation over levels of one size; importing this registers them."""

from .build import build_aspp_head, build_oc_head, build_ppm_head, build_ufp_head
from .context import ObjectContext, PyramidPooling
from .head import PyramidSegHead

__all__ = [
    "ObjectContext",
    "PyramidPooling",
    "PyramidSegHead",
    "build_aspp_head",
    "build_oc_head",
    "build_ppm_head",
    "build_ufp_head",
]
