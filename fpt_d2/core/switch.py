"""FPT with its branches switched off, which is the FPN inside it, with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .fusion import Fusion


@contextmanager
def branches_off(model: nn.Module) -> Iterator[None]:
    """Within it a model computes what it would with the same weights and ``MODEL.FPT.BRANCHES []``."""
    fusions = [module for module in model.modules() if isinstance(module, Fusion)]
    groups = [fusion.branch_groups for fusion in fusions]
    try:
        for fusion in fusions:
            fusion.branch_groups = []
        yield
    finally:
        for fusion, of_fusion in zip(fusions, groups):
            fusion.branch_groups = of_fusion
