"""Detectron2 backbones (FPT, UFP, BiFPN), trunks, RoI heads, heads for segmentation; importing this registers them."""

from . import controls  # noqa: F401  (registers its branches)
from .bifpn import BiFPN
from .branches import FPT_BRANCH_REGISTRY, build_transform, reads
from .build import (
    build_fpt_backbone,
    build_resnet_bifpn_backbone,
    build_resnet_fpt_backbone,
    build_resnet_ufp_backbone,
    build_retinanet_resnet_bifpn_backbone,
    build_retinanet_resnet_fpt_backbone,
    check_model,
)
from .flops import register_flop_handles
from .fpt import FPT, PyramidFPT
from .pyramids import FPT_PYRAMID_REGISTRY
from .roi_heads import AdaptiveBoxHead, AdaptiveCascadeROIHeads, AdaptiveMaskHead, AdaptivePooler, AdaptiveROIHeads
from .sem_seg import ObjectContext, PyramidPooling, PyramidSegHead
from .trunks import FeatureTrunk, PluginResNet, timm_trunk, torchvision_trunk
from .ufp import UFP

register_flop_handles()

__all__ = [
    "FPT",
    "FPT_BRANCH_REGISTRY",
    "FPT_PYRAMID_REGISTRY",
    "UFP",
    "AdaptiveBoxHead",
    "AdaptiveCascadeROIHeads",
    "AdaptiveMaskHead",
    "AdaptivePooler",
    "AdaptiveROIHeads",
    "BiFPN",
    "FeatureTrunk",
    "ObjectContext",
    "PluginResNet",
    "PyramidFPT",
    "PyramidPooling",
    "PyramidSegHead",
    "build_fpt_backbone",
    "build_resnet_bifpn_backbone",
    "build_resnet_fpt_backbone",
    "build_resnet_ufp_backbone",
    "build_retinanet_resnet_bifpn_backbone",
    "build_retinanet_resnet_fpt_backbone",
    "build_transform",
    "check_model",
    "reads",
    "timm_trunk",
    "torchvision_trunk",
]
