"""Detectron2 backbones (FPT, UFP, BiFPN), trunks, RoI heads, heads for segmentation; importing this registers them."""

from .bifpn import BiFPN
from .build import (
    build_fpt_backbone,
    build_resnet_bifpn_backbone,
    build_resnet_fpt_backbone,
    build_resnet_ufp_backbone,
    build_retinanet_resnet_bifpn_backbone,
    build_retinanet_resnet_fpt_backbone,
    check_model,
)
from .fpt import FPT
from .roi_heads import AdaptiveBoxHead, AdaptiveCascadeROIHeads, AdaptiveMaskHead, AdaptivePooler, AdaptiveROIHeads
from .sem_seg import ObjectContext, PyramidPooling, PyramidSegHead
from .trunks import FeatureTrunk, PluginResNet, timm_trunk, torchvision_trunk
from .ufp import UFP

__all__ = [
    "AdaptiveBoxHead",
    "AdaptiveCascadeROIHeads",
    "AdaptiveMaskHead",
    "AdaptivePooler",
    "AdaptiveROIHeads",
    "BiFPN",
    "FPT",
    "FeatureTrunk",
    "ObjectContext",
    "PluginResNet",
    "PyramidPooling",
    "PyramidSegHead",
    "UFP",
    "build_fpt_backbone",
    "build_resnet_bifpn_backbone",
    "build_resnet_fpt_backbone",
    "build_resnet_ufp_backbone",
    "build_retinanet_resnet_bifpn_backbone",
    "build_retinanet_resnet_fpt_backbone",
    "check_model",
    "timm_trunk",
    "torchvision_trunk",
]
