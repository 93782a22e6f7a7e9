"""Average precision of the classes that context decides and of all others, apart."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any

from .coco import COCOEvaluator


class ContextCOCOEvaluator(COCOEvaluator):
    """COCO's evaluator, for a data set with ``context_classes`` in its metadata.

    Results of ``bbox`` and ``segm`` also have ``AP-context`` and ``AP-ordinary``: the means of ``AP-<class>`` over
    those classes and over all others. As in COCO, a class without an object does not count; NaN where none counts.
    """

    def evaluate(self, img_ids: Any = None) -> dict[str, Any]:
        results: dict[str, Any] = super().evaluate(img_ids)
        for task in ("bbox", "segm"):
            if task in results:  # in the first process
                results[task] |= self._means(results[task])
                means = ", ".join(f"{name} {results[task][name]:.2f}" for name in ("AP-context", "AP-ordinary"))
                logging.getLogger(__name__).info("Evaluation results for %s: %s", task, means)
        return results

    def _means(self, figures: dict[str, float]) -> dict[str, float]:
        context = self._metadata.context_classes
        ordinary = [name for name in self._metadata.thing_classes if name not in context]
        return {"AP-context": _mean(figures, context), "AP-ordinary": _mean(figures, ordinary)}


def _mean(figures: dict[str, float], names: Iterable[str]) -> float:
    # Where nothing was detected at all there are no figures of classes.
    values = [value for name in names if not math.isnan(value := figures.get(f"AP-{name}", math.nan))]
    return sum(values) / len(values) if values else math.nan
