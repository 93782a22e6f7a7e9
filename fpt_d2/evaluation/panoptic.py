"""Panoptic quality (Kirillov et al., CVPR 2019) without panopticapi, which no package index has.

Shape legend: H, W are an image's height and width.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from tabulate import tabulate

from ..paths import open_file, read_file

logger = logging.getLogger(__name__)

_VOID = 0  # COCO's id of pixels without a segment
_IDS = 256**3  # COCO's ids are below

Sums = dict[int, np.ndarray]


class PanopticQuality(DatasetEvaluator):
    """Panoptic, segmentation and recognition quality over all categories, things and stuff.

    The figures and their names are those of Detectron2's ``COCOPanopticEvaluator``. The data set has ``panoptic_json``,
    ``panoptic_root`` and the mappings of its category ids as metadata.
    """

    def __init__(self, dataset_name: str) -> None:
        self._metadata = metadata = MetadataCatalog.get(dataset_name)
        self._things = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
        self._stuff = {v: k for k, v in metadata.stuff_dataset_id_to_contiguous_id.items()}
        self._annotations: dict[Any, dict[str, Any]] = {}
        self._is_thing: dict[int, bool] = {}
        self.reset()

    def reset(self) -> None:
        # By category: sum of the matches' IoU, matches, unmatched predictions, unmatched segments.
        self._sums: Sums = {}

    def process(self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> None:
        if not self._annotations:
            content = json.loads(read_file(self._metadata.panoptic_json))
            self._annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
            self._is_thing = {category["id"]: bool(category["isthing"]) for category in content["categories"]}
        for record, output in zip(inputs, outputs):
            predicted, infos = output["panoptic_seg"]
            annotation = self._annotations[record["image_id"]]
            with open_file(os.path.join(self._metadata.panoptic_root, annotation["file_name"])) as file:
                rgb = np.asarray(Image.open(file).convert("RGB"), dtype=np.int64)
            segments = {s["id"]: (s["category_id"], bool(s.get("iscrowd"))) for s in annotation["segments_info"]}
            found = {i["id"]: (self._things if i["isthing"] else self._stuff)[i["category_id"]] for i in infos}
            counts = count_matches(rgb @ (1, 256, 256**2), segments, predicted.cpu().numpy(), found)
            self._sums = _total([self._sums, counts])

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """``{"panoptic_seg": {"PQ": ..., "PQ_th": ..., "PQ_st": ..., "SQ": ...}}`` in percent, in the main process."""
        shares = comm.gather((self._sums, self._is_thing))
        if not comm.is_main_process():
            return None
        total = _total([sums for sums, _ in shares])
        is_thing = {category: thing for _, share in shares for category, thing in share.items()}
        results: dict[str, float] = {}
        rows = []
        for title, suffix, kinds in (
            ("All", "", (True, False)),
            ("Things", "_th", (True,)),
            ("Stuff", "_st", (False,)),
        ):
            chosen = [values for category, values in total.items() if is_thing[category] in kinds]
            quality = 100 * np.mean([_quality(values) for values in chosen], axis=0) if chosen else np.zeros(3)
            results |= {f"{key}{suffix}": float(value) for key, value in zip(("PQ", "SQ", "RQ"), quality)}
            rows.append([title, *quality, len(chosen)])
        table = tabulate(rows, ["", "PQ", "SQ", "RQ", "#categories"], tablefmt="pipe", floatfmt=".3f")
        logger.info("Panoptic quality:\n%s", table)
        return OrderedDict(panoptic_seg=results)


def count_matches(
    truth: np.ndarray, segments: Mapping[int, tuple[int, bool]], predicted: np.ndarray, found: Mapping[int, int]
) -> Sums:
    """Match the predicted segments of an image with the annotated ones: those of one category with an IoU above 0.5.

    Args:
        truth, predicted: (H, W) ids, 0 where there is no segment.
        segments: (category, is a crowd) by id in ``truth``.
        found: category by id in ``predicted``.

    Returns:
        By category (sum of the matches' IoU, matches, unmatched predictions, unmatched segments). A prediction mostly
        on pixels without a segment, or on crowds of its category, counts for nothing, and so does a crowd.
    """
    pairs, areas = np.unique(truth.astype(np.int64) * _IDS + predicted, return_counts=True)
    overlap = {(int(pair) // _IDS, int(pair) % _IDS): int(area) for pair, area in zip(pairs, areas)}
    area_true, area_found, ignored = Counter[int](), Counter[int](), Counter[int]()
    for (true, guess), area in overlap.items():
        area_true[true] += area
        area_found[guess] += area
        if true == _VOID or segments.get(true) == (found.get(guess), True):
            ignored[guess] += area
    counts: defaultdict[int, np.ndarray] = defaultdict(lambda: np.zeros(4))
    matched_true, matched_found = set(), set()
    for (true, guess), area in overlap.items():
        if guess not in found or segments.get(true) != (found[guess], False):
            continue
        iou = area / (area_true[true] + area_found[guess] - area - overlap.get((_VOID, guess), 0))
        if iou > 0.5:
            counts[found[guess]] += (iou, 1, 0, 0)
            matched_true.add(true)
            matched_found.add(guess)
    for true, (category, crowd) in segments.items():
        if true not in matched_true and not crowd:
            counts[category] += (0, 0, 0, 1)
    for guess, category in found.items():
        if guess not in matched_found and area_found[guess] and ignored[guess] / area_found[guess] <= 0.5:
            counts[category] += (0, 0, 1, 0)
    return dict(counts)


def _total(shares: Sequence[Sums]) -> Sums:
    categories = {category for share in shares for category in share}
    return {category: np.sum([s[category] for s in shares if category in s], axis=0) for category in categories}


def _quality(values: np.ndarray) -> tuple[float, float, float]:
    """PQ, SQ and RQ of a category; PQ = SQ * RQ."""
    iou, matches, wrong, missed = values
    segmentation = iou / matches if matches else 0.0
    recognition = matches / (matches + (wrong + missed) / 2)
    return segmentation * recognition, segmentation, recognition
