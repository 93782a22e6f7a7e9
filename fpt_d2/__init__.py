"""Feature Pyramid Transformer for Detectron2.

Importing the package registers its backbones and its data set with Detectron2. ``fpt_d2.core``, the mathematics, needs
PyTorch alone.
"""

import warnings

__version__ = "0.1.0"

_NO_DETECTRON2 = (
    "Detectron2 is not installed, and of fpt_d2 only fpt_d2.core works without it: install it as "
    "https://detectron2.readthedocs.io/en/latest/tutorials/install.html says, "
    "or let `make quickstart` in fpt_d2's repository make an environment that has all of it."
)

try:
    import detectron2  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "detectron2":  # it is there, but something that it needs is not: that message says more
        raise
    warnings.warn(_NO_DETECTRON2, stacklevel=2)

    def __getattr__(name: str) -> None:
        if name in ("add_fpt_config", "FPT"):
            raise ImportError(_NO_DETECTRON2)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from fpt_d2 import data as _data  # noqa: F401  (registers the synthetic data set)
    from fpt_d2.config import add_fpt_config  # noqa: F401
    from fpt_d2.modeling import FPT  # noqa: F401
