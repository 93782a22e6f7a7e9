"""The mathematics of the Feature Pyramid Transformer in pure torch."""

from .attention import linear_attention, mixture_attention, mixture_gate
from .drop_block import DropBlock, drop_block
from .local import local_mixture_attention
from .pyramid import PyramidTransform
from .transformers import GroundingTransformer, RenderingTransformer, SelfTransformer

__all__ = [
    "DropBlock",
    "GroundingTransformer",
    "PyramidTransform",
    "RenderingTransformer",
    "SelfTransformer",
    "drop_block",
    "linear_attention",
    "local_mixture_attention",
    "mixture_attention",
    "mixture_gate",
]
