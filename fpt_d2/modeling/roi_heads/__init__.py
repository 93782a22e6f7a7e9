"""The RoI heads of the paper's authors; importing this registers them."""

from .box_head import AdaptiveBoxHead
from .mask_head import AdaptiveMaskHead
from .pooler import AdaptivePooler, LevelFusion
from .roi_heads import AdaptiveCascadeROIHeads, AdaptiveROIHeads

__all__ = [
    "AdaptiveBoxHead",
    "AdaptiveCascadeROIHeads",
    "AdaptiveMaskHead",
    "AdaptivePooler",
    "AdaptiveROIHeads",
    "LevelFusion",
]
