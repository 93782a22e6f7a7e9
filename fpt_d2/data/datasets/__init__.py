"""Data sets registered with Detectron2: bundled ones, published ones, and the user's own."""

from . import bundled as _bundled  # noqa: F401 (registers)
from . import photographs as _photographs  # noqa: F401 (registers)
from . import sem_seg as _sem_seg  # noqa: F401 (registers)
from .from_config import register_from_config

__all__ = ["register_from_config"]
