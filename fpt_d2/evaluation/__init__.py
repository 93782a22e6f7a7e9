"""Which evaluator measures which data set."""

from .build import build_evaluator, check_evaluator, metric_names

__all__ = ["build_evaluator", "check_evaluator", "metric_names"]
