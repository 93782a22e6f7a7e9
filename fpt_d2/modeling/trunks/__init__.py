"""Bottom-up backbones beside Detectron2's; importing this registers their builders."""

from __future__ import annotations

from .build import build_timm_backbone, build_torchvision_backbone, build_trunk
from .library import FeatureTrunk, timm_trunk, torchvision_trunk
from .plugins import AttentionAugmentation, GlobalContext, NonLocal
from .resnet import PluginResNet

__all__ = [
    "AttentionAugmentation",
    "FeatureTrunk",
    "GlobalContext",
    "NonLocal",
    "PluginResNet",
    "build_timm_backbone",
    "build_torchvision_backbone",
    "build_trunk",
    "timm_trunk",
    "torchvision_trunk",
]
