"""FPT as a Detectron2 backbone; importing this registers its builders."""

from .build import build_fpt_backbone, build_resnet_fpt_backbone, build_retinanet_resnet_fpt_backbone
from .fpt import FPT

__all__ = ["FPT", "build_fpt_backbone", "build_resnet_fpt_backbone", "build_retinanet_resnet_fpt_backbone"]
