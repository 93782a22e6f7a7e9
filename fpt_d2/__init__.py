"""Feature Pyramid Transformer for Detectron2.

Nothing is imported with the package itself: ``fpt_d2.core``, the mathematics, needs PyTorch alone, and
``add_fpt_config`` is what registers the backbones, heads and data sets with Detectron2.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import model_zoo
    from .config import add_fpt_config
    from .engine.predictor import Predictor
    from .modeling import FPT

__version__ = "0.1.0"
__all__ = ["FPT", "Predictor", "__version__", "add_fpt_config", "model_zoo"]

NO_DETECTRON2 = (
    "Detectron2 is not installed, and only fpt_d2.core works without it: install it as "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html says, "
    "or let `make quickstart` in fpt_d2's repository make an environment that has all of it"
)
_MODULES = {
    "FPT": ".modeling",
    "Predictor": ".engine.predictor",
    "add_fpt_config": ".config",
    "model_zoo": ".model_zoo",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "model_zoo":
        _import_detectron2()
    module = importlib.import_module(_MODULES[name], __name__)
    return getattr(module, name, module)


def _import_detectron2() -> None:
    try:
        importlib.import_module("detectron2")
    except ModuleNotFoundError as error:
        if error.name != "detectron2":  # it is there, but something that it needs is not: that message says more
            raise
        raise ImportError(NO_DETECTRON2) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
