"""The mathematics of the Feature Pyramid Transformer in pure torch, for any detector."""

from .arguments import ArgumentError
from .attention import linear_attention, mixture_attention
from .drop_block import DropBlock, drop_block
from .fusion import Fusion, PyramidNeck
from .level import Level, ValidSizes
from .local import local_mixture_attention
from .mixture import mixture_gate
from .pyramid import PyramidTransform
from .transformers import (
    Branch,
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
    SelfTransformer,
)

__all__ = [
    "ArgumentError",
    "Branch",
    "DropBlock",
    "Fusion",
    "GroundingTransformer",
    "Level",
    "LinearGroundingTransformer",
    "LocalGroundingTransformer",
    "PyramidNeck",
    "PyramidTransform",
    "RenderingTransformer",
    "SelfTransformer",
    "ValidSizes",
    "drop_block",
    "linear_attention",
    "local_mixture_attention",
    "mixture_attention",
    "mixture_gate",
]
