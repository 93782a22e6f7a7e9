"""FPT and UFP as Detectron2 backbones, and heads for semantic segmentation; importing this registers their builders."""

from .build import (
    build_fpt_backbone,
    build_resnet_fpt_backbone,
    build_resnet_ufp_backbone,
    build_retinanet_resnet_fpt_backbone,
)
from .fpt import FPT
from .sem_seg import ObjectContext, PyramidPooling, PyramidSegHead
from .ufp import UFP

__all__ = [
    "FPT",
    "ObjectContext",
    "PyramidPooling",
    "PyramidSegHead",
    "UFP",
    "build_fpt_backbone",
    "build_resnet_fpt_backbone",
    "build_resnet_ufp_backbone",
    "build_retinanet_resnet_fpt_backbone",
]
