"""Detectron2's evaluator of COCO's metrics, with a choice of who computes them."""

from __future__ import annotations

import importlib.util
import logging
from types import FunctionType
from typing import Any

import detectron2.evaluation as d2
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco import ground_truth
from ..errors import ConfigError

# Detectron2's own choice: its COCOeval_opt where that is compiled, otherwise pycocotools.
DETECTRON2 = "detectron2"
PYCOCOTOOLS = "pycocotools"
FASTER = "faster-coco-eval"


class COCOEvaluator(d2.COCOEvaluator):
    """Detectron2's evaluator, which here can also leave AP to pycocotools alone or to faster-coco-eval."""

    def __init__(self, dataset_name: str, *args: Any, api: str = DETECTRON2, **kwargs: Any) -> None:
        """
        Args:
            dataset_name, *args, **kwargs: Detectron2's, but for ``use_fast_impl``.
            api: ``"detectron2"``, ``"pycocotools"`` or ``"faster-coco-eval"``.
        """
        check_api(api)
        _construct(self, dataset_name, *args, use_fast_impl=api == DETECTRON2, **kwargs)
        self._api = api
        self._use_fast_impl |= api == FASTER

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Any = None) -> None:
        evaluate = d2.COCOEvaluator._eval_predictions
        if self._api == FASTER:
            evaluate = _with_globals(evaluate, COCOeval_opt=faster_coco_eval)
        evaluate(self, predictions, img_ids)


class RotatedCOCOEvaluator(d2.RotatedCOCOEvaluator):
    """Detectron2's evaluator of rotated boxes."""

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any) -> None:
        _construct(self, dataset_name, *args, **kwargs)


def _construct(evaluator: d2.COCOEvaluator, dataset_name: str, *args: Any, **kwargs: Any) -> None:
    """Detectron2's constructor, for the truth that was read for the check of the data set where there was one."""
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    construct = _with_globals(d2.COCOEvaluator.__init__, COCO=lambda file: ground_truth(json_file) or COCO(file))
    construct(evaluator, dataset_name, *args, **kwargs)


def _with_globals(function: Any, **values: Any) -> Any:
    """A copy of a function of Detectron2's with some globals changed, so that its module stays as it is."""
    names = {**function.__globals__, **values}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def check_api(api: str, key: str = "TEST.COCO_EVAL") -> None:
    """Raises ConfigError if ``api`` does not exist or is not installed."""
    known = (DETECTRON2, PYCOCOTOOLS, FASTER)
    if api not in known:
        raise ConfigError(f"{key} is {api!r}; allowed: {', '.join(map(repr, known))}")
    if api == FASTER and importlib.util.find_spec("faster_coco_eval") is None:
        raise ConfigError(f"{key} is {api!r}, which needs the package {FASTER}: install it, or leave the key out")


def faster_coco_eval(truth: COCO, detections: COCO, iou_type: str) -> Any:
    """The object that pycocotools' ``COCOeval(truth, detections, iou_type)`` is, of faster-coco-eval.

    It takes ids for floats: where some are words, or too large, the object is pycocotools'.
    """
    ids = [*truth.imgs, *truth.cats, *truth.anns]
    if not all(isinstance(i, int) and abs(i) < 2**53 for i in ids):
        logging.getLogger(__name__).warning("%s needs ids that are numbers below 2^53: pycocotools evaluates", FASTER)
        return COCOeval(truth, detections, iou_type)

    from faster_coco_eval import COCOeval_faster

    evaluation = COCOeval_faster(iouType=iou_type, print_function=print)
    # Not by its constructor: that needs its own COCO, and for keypoints leaves out a class without an object, whose
    # AP Detectron2 asks for.
    evaluation.cocoGt, evaluation.cocoDt = truth, detections
    evaluation.params.imgIds, evaluation.params.catIds = sorted(truth.imgs), sorted(truth.cats)
    return evaluation
