"""Weights from elsewhere: reading, loading with a report, converting."""

from ..errors import WeightsError
from .checkpointer import FPTCheckpointer
from .convert import convert_resnet, fpn_part
from .files import find_weights, read_weights

__all__ = ["FPTCheckpointer", "WeightsError", "convert_resnet", "find_weights", "fpn_part", "read_weights"]
