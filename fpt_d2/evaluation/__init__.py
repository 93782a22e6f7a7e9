"""Which evaluator measures which data set."""

from .build import build_evaluator, check_evaluator

__all__ = ["build_evaluator", "check_evaluator"]
