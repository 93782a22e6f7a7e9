"""Whether there are the evaluators of a config and the metrics that its keys name, known before the training begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detectron2.config import CfgNode

from ..errors import require
from ..evaluation import check_evaluator, metric_names
from .parts import is_ours

if TYPE_CHECKING:
    from .trainer import Trainer


def check_evaluation(cfg: CfgNode, trainer: type[Trainer], *, is_eval: bool = False) -> None:
    """Check what would fail only after the training: the evaluators, and the names of metrics.

    Raises:
        ConfigError: a data set cannot be evaluated, or a key names what is not measured. Not for a ``trainer`` with
            evaluators of its own.
    """
    if not is_ours(trainer, "build_evaluator"):
        return
    for dataset in cfg.DATASETS.TEST:
        check_evaluator(cfg, dataset)
    if not is_eval and cfg.TEST.BEST_METRIC:
        _check_best_metric(cfg)
    if cfg.TEST.EXPECTED_RESULTS and not cfg.DEBUG.ENABLED:
        _check_expected_results(cfg, is_eval=is_eval)


def _check_expected_results(cfg: CfgNode, *, is_eval: bool) -> None:
    names = list(dict.fromkeys(cfg.DATASETS.TEST))
    require(len(names) == 1, f"TEST.EXPECTED_RESULTS needs one data set in DATASETS.TEST, which are {names}")
    known = metric_names(cfg, names[0]) or ()
    for task, metric, *_ in cfg.TEST.EXPECTED_RESULTS if known else ():
        # What is augmented is not among the results that a training verifies.
        plain = task.removesuffix("_TTA") if is_eval and cfg.TEST.AUG.ENABLED else task
        fine = is_metric(f"{plain}/{metric}", known)
        require(fine, f"TEST.EXPECTED_RESULTS names {task}/{metric}, which is not evaluated; allowed: {_shown(known)}")


def _check_best_metric(cfg: CfgNode) -> None:
    names = list(dict.fromkeys(cfg.DATASETS.TEST))
    known = [
        f"{name}/{metric}" if len(names) > 1 else metric for name in names for metric in metric_names(cfg, name) or ()
    ]
    metric = cfg.TEST.BEST_METRIC
    fine = not known or is_metric(metric, known)
    require(fine, f"TEST.BEST_METRIC is {metric!r}, which is not evaluated; allowed: {_shown(known)}")


def is_metric(metric: str, known: Sequence[str]) -> bool:
    """Whether a metric is among those known, of which one that ends in "-" is of any class."""
    return metric in known or any(name.endswith("-") and metric.startswith(name) for name in known)


def _shown(known: Sequence[str]) -> str:
    return ", ".join(f"{name}CLASS" if name.endswith("-") else name for name in known)
