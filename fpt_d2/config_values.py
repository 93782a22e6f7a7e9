"""Which values the keys of a config can have, where Detectron2 takes others in silence or fails once it is too late."""

from __future__ import annotations

import fnmatch
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .errors import ConfigError

# What Detectron2's RandomCrop and its augmentations by flips know.
CROP_TYPES = ("relative", "relative_range", "absolute", "absolute_range")
FLIPS = ("horizontal", "vertical", "none")

# Of Linux, PATH_MAX.
_LONGEST_PATH = 4096


class Rule(NamedTuple):
    """What is allowed for some keys.

    Attributes:
        words: of what is allowed.
        allows: of a value.
        keys: full names, or patterns of them.
    """

    words: str
    allows: Callable[[Any], bool]
    keys: str


def flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """All keys by their full names, sections included."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found[f"{prefix}{key}"] = value
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
    return found


def numbers(value: Any) -> Iterator[Any]:
    """All that lists in lists hold, or the one value."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    else:
        yield value


def _each(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    """Whether there are numbers, as many as one wants, in lists or not, and all pass."""

    def allows(value: Any) -> bool:
        found = list(numbers(value))
        return bool(found) and all(isinstance(x, (int, float)) and test(x) for x in found)

    return allows


def _one_of(*names: Any) -> Rule:
    return Rule(", ".join(map(repr, names)), lambda value: value in names, "")


def _is_ascending(value: Any) -> bool:
    return all(isinstance(x, (int, float)) and x > before and x == int(x) for before, x in zip((0, *value), value))


def _is_path(value: str) -> bool:
    try:
        return bool(value) and "\0" not in value and len(os.fsencode(value)) < _LONGEST_PATH
    except UnicodeEncodeError:
        return False


def _are_labels(value: Any) -> bool:
    return bool(value) and all(x in (-1, 0, 1) for x in value) and value[0] < 1 == value[-1]


def _is_expected_results(value: Any) -> bool:
    rows = [row for row in value if isinstance(row, (list, tuple)) and len(row) == 4]
    return len(rows) == len(value) and all(
        isinstance(task, str) and isinstance(metric, str) and _each(lambda x: True)([result, tolerance])
        for task, metric, result, tolerance in rows
    )


_POSITIVE = Rule("a positive number", _each(lambda x: x > 0), "")
_FROM_0 = Rule("0 or more", _each(lambda x: x >= 0), "")
_SHARE = Rule("from 0 to 1", _each(lambda x: 0 <= x <= 1), "")

RULES = (
    _POSITIVE._replace(
        keys="""
        INPUT.MAX_SIZE_* SOLVER.NUM_DECAYS MODEL.PIXEL_STD MODEL.*.OUT_CHANNELS MODEL.ANCHOR_GENERATOR.SIZES
        MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS MODEL.*.BATCH_SIZE_PER_IMAGE MODEL.*.P*_NMS_TOPK_* MODEL.*.NUM_CLASSES
        MODEL.*.POOLER_RESOLUTION MODEL.*.CONV_DIM MODEL.*.CONVS_DIM MODEL.*.FC_DIM MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS
        MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS MODEL.RETINANET.NUM_CONVS MODEL.RETINANET.TOPK_CANDIDATES_TEST
        MODEL.RESNETS.NUM_GROUPS MODEL.RESNETS.WIDTH_PER_GROUP MODEL.RESNETS.*_OUT_CHANNELS MODEL.RESNETS.*_DILATION
        MODEL.RESNETS.DEFORM_NUM_GROUPS MODEL.ROI_BOX_HEAD.FED_LOSS_NUM_CLASSES DATASETS.PRECOMPUTED_PROPOSAL_TOPK_*
        SOLVER.MAX_ITER SOLVER.IMS_PER_BATCH SOLVER.CHECKPOINT_PERIOD SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        SOLVER.CLIP_GRADIENTS.NORM_TYPE TEST.AUG.MIN_SIZES TEST.AUG.MAX_SIZE TEST.PRECISE_BN.NUM_ITER DEBUG.MAX_ITER
        DEBUG.NUM_IMAGES
        """
    ),
    _FROM_0._replace(
        keys="""
        INPUT.MIN_SIZE_TRAIN INPUT.MIN_SIZE_TEST DATALOADER.NUM_WORKERS DATALOADER.REPEAT_THRESHOLD
        SOLVER.WEIGHT_DECAY* SOLVER.GAMMA MODEL.*.NMS_THRESH*
        SOLVER.BASE_LR SOLVER.BASE_LR_END SOLVER.BIAS_LR_FACTOR SOLVER.WARMUP_ITERS SOLVER.REFERENCE_WORLD_SIZE
        SOLVER.POLY_LR_* TEST.EVAL_PERIOD TEST.PATIENCE TEST.VIS_IMAGES VIS_PERIOD MODEL.*LOSS_WEIGHT
        MODEL.*SMOOTH_L1_*BETA MODEL.*.NUM_CONV MODEL.*.NUM_FC MODEL.*.POOLER_SAMPLING_RATIO MODEL.*.FOCAL_LOSS_GAMMA
        MODEL.PROPOSAL_GENERATOR.MIN_SIZE MODEL.*.STUFF_AREA_LIMIT MODEL.*.FED_LOSS_FREQ_WEIGHT_POWER
        MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        """
    ),
    _SHARE._replace(
        keys="""
        MODEL.*.IOU_THRESHOLDS MODEL.*.IOUS MODEL.*.SCORE_THRESH_TEST
        MODEL.*.OVERLAP_THRESH MODEL.*.INSTANCES_CONFIDENCE_THRESH SOLVER.WARMUP_FACTOR
        """
    ),
    Rule("two positive numbers", lambda value: len(value) == 2 and _POSITIVE.allows(value), "INPUT.CROP.SIZE"),
    Rule("from 0 to 65535", _each(lambda x: 0 <= x <= 65535), "MODEL.PIXEL_MEAN"),
    Rule("numbers", _each(lambda x: True), "MODEL.ANCHOR_GENERATOR.ANGLES"),
    Rule("from 0, below 1", _each(lambda x: 0 <= x < 1), "SOLVER.MOMENTUM MODEL.ANCHOR_GENERATOR.OFFSET"),
    Rule("between 0 and 1", _each(lambda x: 0 < x < 1), "MODEL.RETINANET.PRIOR_PROB"),
    Rule("above 0, up to 1", _each(lambda x: 0 < x <= 1), "DATALOADER.RANDOM_SUBSET_RATIO MODEL.*.POSITIVE_FRACTION"),
    Rule("from 0 to 1, or -1 for none", _each(lambda x: 0 <= x <= 1 or x == -1), "MODEL.*.FOCAL_LOSS_ALPHA"),
    Rule("positive numbers, or -1 for the input's width", _each(lambda x: x > 0 or x == -1), "MODEL.RPN.CONV_DIMS"),
    Rule("a positive number, or -1 for all", _each(lambda x: x > 0 or x == -1), "TEST.DETECTIONS_PER_IMAGE"),
    Rule("up to 4294967295, below 0 for another one each time", _each(lambda x: x < 2**32), "SEED"),
    Rule("from 0 to 5", _each(lambda x: 0 <= x <= 5), "MODEL.BACKBONE.FREEZE_AT"),
    Rule("of -1, 0 and 1, the last 1, the first not", _are_labels, "MODEL.*.IOU_LABELS"),
    Rule("a power of 2", _each(lambda x: x in (1, 2, 4, 8, 16, 32)), "MODEL.SEM_SEG_HEAD.COMMON_STRIDE"),
    Rule(
        "4 positive numbers, or 5 for rotated boxes",
        lambda value: len(value) in (4, 5) and _POSITIVE.allows(value),
        "MODEL.RPN.BBOX_REG_WEIGHTS MODEL.RETINANET.BBOX_REG_WEIGHTS MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    ),
    Rule(
        "4 positive numbers for each stage",
        lambda value: all(isinstance(x, (list, tuple)) and len(x) == 4 and _POSITIVE.allows(x) for x in value),
        "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
    ),
    Rule("rows of (task, metric, value, tolerance)", _is_expected_results, "TEST.EXPECTED_RESULTS"),
    Rule("positive numbers", lambda value: not value or _POSITIVE.allows(value), "TEST.KEYPOINT_OKS_SIGMAS"),
    Rule("the name of a folder", _is_path, "OUTPUT_DIR"),
    Rule("2, to which older configs are translated", lambda value: value == 2, "VERSION"),
    # More processes than any machine bears; each is started before the first image is read.
    Rule("up to 1024", _each(lambda x: x <= 1024), "DATALOADER.NUM_WORKERS"),
    # A batch that is gathered for hours before the first step.
    Rule("up to 65536", _each(lambda x: x <= 2**16), "SOLVER.IMS_PER_BATCH"),
    # Beyond it Python has no duration for the time that is left.
    Rule("up to 10**9", _each(lambda x: x <= 10**9), "SOLVER.MAX_ITER"),
    Rule("iterations above 0, whole numbers, each later than the one before", _is_ascending, "SOLVER.STEPS"),
    Rule("names, at least one", bool, "MODEL.R*.IN_FEATURES MODEL.SEM_SEG_HEAD.IN_FEATURES MODEL.RESNETS.OUT_FEATURES"),
    Rule(
        "names",
        lambda value: all(isinstance(name, str) and name for name in value),
        "MODEL.*.IN_FEATURES MODEL.*.OUT_FEATURES DATASETS.TRAIN DATASETS.TEST DATASETS.PROPOSAL_FILES_*",
    ),
    _one_of("smooth_l1", "giou", "diou", "ciou")._replace(keys="MODEL.*.BBOX_REG_LOSS_TYPE"),
    _one_of("choice", "range")._replace(keys="INPUT.MIN_SIZE_TRAIN_SAMPLING"),
    _one_of(*FLIPS)._replace(keys="INPUT.RANDOM_FLIP"),
    _one_of("polygon", "bitmask")._replace(keys="INPUT.MASK_FORMAT"),
    _one_of(*CROP_TYPES)._replace(keys="INPUT.CROP.TYPE"),
    _one_of("BGR", "RGB", "YUV-BT.601", "L", "HSV", "LAB", "YCbCr", "RGBA", "CMYK")._replace(keys="INPUT.FORMAT"),
)
# Infinity is the norm of the largest gradient.
_MAY_BE_INFINITE = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE",)


def check_values(cfg: Mapping[str, Any], *, name: str = "") -> None:
    """Raises ConfigError if a value is none that its key can have.

    Args:
        name: of the one key in ``cfg``, where a user knows it by another.
    """
    values = flat(cfg)
    for key, value in values.items():
        if key not in _MAY_BE_INFINITE and any(isinstance(x, float) and not math.isfinite(x) for x in numbers(value)):
            raise ConfigError(f"{name or key} is {value!r}; allowed: finite numbers")
    for rule in RULES:
        for key in (key for pattern in rule.keys.split() for key in fnmatch.filter(values, pattern)):
            if values[key] is not None and not rule.allows(values[key]):
                raise ConfigError(f"{name or key} is {values[key]!r}; allowed: {rule.words}")
