"""Wrong values of keys, ours and Detectron2's, and of command-line options."""

from __future__ import annotations

from datetime import date
from typing import Any

import yaml

from tests.abuse.cases import Case, Place

# Detectron2 takes these in silence, or fails in the midst or at the end of the training.
OUT_OF_RANGE: tuple[tuple[str, Any], ...] = (
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", -1.0),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", 0.0),
    ("SOLVER.CHECKPOINT_PERIOD", 0),
    ("SOLVER.CHECKPOINT_PERIOD", -1),
    ("SOLVER.IMS_PER_BATCH", 0),
    ("SOLVER.IMS_PER_BATCH", 10**9),
    ("SOLVER.BASE_LR", -0.1),
    ("SOLVER.MOMENTUM", -0.9),
    ("SOLVER.MOMENTUM", 1.5),
    ("SOLVER.WEIGHT_DECAY", -1e-4),
    ("SOLVER.WEIGHT_DECAY_NORM", -1.0),
    ("SOLVER.WEIGHT_DECAY_BIAS", -1.0),
    ("SOLVER.BIAS_LR_FACTOR", -1.0),
    ("SOLVER.GAMMA", -0.1),
    ("SOLVER.MAX_ITER", 0),
    ("SOLVER.MAX_ITER", -5),
    ("SOLVER.WARMUP_ITERS", -1),
    ("SOLVER.WARMUP_FACTOR", -0.1),
    ("SOLVER.WARMUP_FACTOR", 1000.0),
    ("SOLVER.STEPS", (2, 2)),
    ("SOLVER.STEPS", (3, 1)),
    ("SOLVER.STEPS", (4,)),  # MAX_ITER
    ("SOLVER.STEPS", (1, 2.5)),
    ("SOLVER.MAX_ITER", 10**30),
    ("OUTPUT_DIR", "a/" * 3000),
    ("MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
    ("SEED", 10**10),
    ("VERSION", 1),
    ("VIS_PERIOD", -1),
    ("INPUT.FORMAT", "BRG"),
    ("INPUT.MIN_SIZE_TRAIN", ()),
    ("INPUT.MIN_SIZE_TRAIN", (-96,)),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "chioce"),
    ("INPUT.MAX_SIZE_TRAIN", 0),
    ("INPUT.MIN_SIZE_TEST", -8),
    ("INPUT.RANDOM_FLIP", "diagonal"),
    ("INPUT.CROP.TYPE", "relativ"),
    ("INPUT.CROP.SIZE", (0.0, 0.5)),
    ("INPUT.MASK_FORMAT", "rle"),
    ("DATALOADER.NUM_WORKERS", -1),
    ("DATALOADER.NUM_WORKERS", 10**6),
    ("DATALOADER.REPEAT_THRESHOLD", -1.0),
    ("DATASETS.TRAIN", (1,)),
    ("MODEL.PIXEL_STD", (0.0, 1.0, 1.0)),
    ("MODEL.PIXEL_MEAN", (-1.0, 0.0, 0.0)),
    ("MODEL.BACKBONE.FREEZE_AT", -1),
    ("MODEL.FPN.OUT_CHANNELS", 0),
    ("MODEL.FPN.OUT_CHANNELS", -32),
    ("MODEL.ANCHOR_GENERATOR.SIZES", ()),
    ("MODEL.ANCHOR_GENERATOR.SIZES", ((-8,),)),
    ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", ((0.0,),)),
    ("MODEL.RPN.IOU_THRESHOLDS", (0.3, 70)),
    ("MODEL.RPN.NMS_THRESH", -7.0),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0)),
    ("MODEL.RPN.LOSS_WEIGHT", -1.0),
    ("MODEL.RPN.POST_NMS_TOPK_TRAIN", 0),
    ("MODEL.ROI_HEADS.NMS_THRESH_TEST", -0.5),
    ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 50.0),
    ("MODEL.ROI_HEADS.IOU_LABELS", (0, 2)),
    ("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 0),
    ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", -1),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "l1"),
    ("MODEL.RETINANET.PRIOR_PROB", 1.0),
    ("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", 3),
    ("TEST.EVAL_PERIOD", -1),
    ("TEST.DETECTIONS_PER_IMAGE", 0),
    ("TEST.AUG.MIN_SIZES", ()),
    ("TEST.KEYPOINT_OKS_SIGMAS", (0.1, -1.0)),
    ("TEST.EXPECTED_RESULTS", (("bbox", "AP"),)),
    ("TEST.EXPECTED_RESULTS", (("bbox", "AP", "high", 1),)),
)
# A constructor refuses it; which of all the keys it means is found out.
REFUSED: tuple[tuple[str, Any], ...] = (
    ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosine"),
    ("SOLVER.WARMUP_METHOD", "quadratic"),
    ("DATALOADER.SAMPLER_TRAIN", "Sampler"),
    ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
    ("MODEL.FPN.FUSE_TYPE", "max"),
    ("MODEL.RPN.IN_FEATURES", ("p2", "p9")),
    ("MODEL.ROI_HEADS.IN_FEATURES", ("p9",)),
    ("MODEL.ROI_HEADS.IOU_THRESHOLDS", (0.5, 0.6)),
    ("MODEL.RPN.IOU_THRESHOLDS", (0.7, 0.3)),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign3"),
    ("MODEL.ROI_BOX_HEAD.NUM_FC", 0),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", 10**9),
    ("MODEL.PIXEL_MEAN", (0.0, 0.0)),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", (True,)),
)
# Detectron2 would say it after the training, or not at all.
TOO_LATE: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("SOLVER.BASE_LR_END", (5.0, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"), "allowed: up to SOLVER.BASE_LR"),
    ("SOLVER.BASE_LR", (0, "SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"), "SOLVER.BASE_LR is 0.0; allowed"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", ("range",), "INPUT.MIN_SIZE_TRAIN is (96,); allowed: the smallest and"),
    (
        "INPUT.MIN_SIZE_TRAIN",
        ((96, 64), "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
        "INPUT.MIN_SIZE_TRAIN is (96, 64); allowed: the smallest and the largest size",
    ),
    ("TEST.EXPECTED_RESULTS", ([["bbox", "ap", 1, 1]],), "TEST.EXPECTED_RESULTS names bbox/ap, which is not evaluated"),
    ("TEST.EXPECTED_RESULTS", ([["box", "AP", 1, 1]],), "TEST.EXPECTED_RESULTS names box/AP"),
    (
        "TEST.EXPECTED_RESULTS",
        ([["bbox", "AP", 1, 1]], "DATASETS.TEST", ("tiny_train", "tiny_val")),
        "TEST.EXPECTED_RESULTS needs one data set",
    ),
    (
        "TEST.EXPECTED_RESULTS",
        ([["bbox", "AP", 1, 1]], "DATASETS.TEST", ()),
        "TEST.EXPECTED_RESULTS needs one data set",
    ),
    (
        "MODEL.PIXEL_MEAN",
        ([0.0, 0.0], "MODEL.PIXEL_STD", [1.0, 1.0]),
        "MODEL.PIXEL_MEAN is [0.0, 0.0]; allowed: 3 numbers",
    ),
    ("MODEL.RPN.BBOX_REG_WEIGHTS", ((1.0,) * 5,), "allowed: 4 numbers for upright boxes"),
    ("MODEL.LOAD_PROPOSALS", (True,), "DATASETS.PROPOSAL_FILES_TRAIN has 0 files for 1 data sets"),
    (
        "MODEL.LOAD_PROPOSALS",
        (True, "DATASETS.PROPOSAL_FILES_TRAIN", ("gone.pkl",), "DATASETS.PROPOSAL_FILES_TEST", ("gone.pkl",)),
        "DATASETS.PROPOSAL_FILES_TRAIN names gone.pkl",
    ),
    ("MODEL.DEVICE", ("meta",), "MODEL.DEVICE is 'meta', on which Detectron2 does not run"),
    ("MODEL.DEVICE", ("mps",), "MODEL.DEVICE is 'mps', on which Detectron2 does not run"),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", ([True] * 4, "MODEL.RESNETS.DEPTH", 50), "convolutions need a GPU"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", ("RRPN",), "A model of rotated boxes (RRPN, RROIHeads) needs"),
)
# Of another type than the key's, in the file: what is said of it.
OF_ANOTHER_TYPE: tuple[tuple[str, Any, str], ...] = (
    ("SOLVER.MAX_ITER", 2.5, "is 2.5; allowed: a whole number"),
    ("SOLVER.MAX_ITER", True, "is True; allowed: a whole number"),
    ("SOLVER.MAX_ITER", None, "is None; allowed: a whole number"),
    ("SOLVER.BASE_LR", "fast", "is 'fast'; allowed: a number"),
    ("SOLVER.STEPS", 3, "is 3; allowed: a list, such as [3]"),
    ("DATASETS.TRAIN", "tiny_train", "allowed: a list, such as ['tiny_train']"),
    ("MODEL.MASK_ON", "perhaps", "is 'perhaps'; allowed: True or False"),
    ("INPUT.RANDOM_FLIP", False, "is False; allowed: text, in quotes"),
    ("OUTPUT_DIR", date(2024, 1, 1), "is the date 2024-01-01; allowed: text, in quotes"),
)
NOT_FINITE = (
    "SOLVER.BASE_LR",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "MODEL.RPN.LOSS_WEIGHT",
    "MODEL.FPT.DROP_BLOCK_PROB",
)


def in_file(place: Place, key: str, value: Any) -> None:
    """Give a key a value in the config file, where YAML has values that the command line does not."""
    content = yaml.safe_load(place.config.read_text())
    *sections, leaf = key.split(".")
    node = content
    for section in sections:
        node = node.setdefault(section, {})
    node[leaf] = value
    place.config.write_text(yaml.safe_dump(content))


CASES = (
    *(
        Case(f"{key} {value}", lambda _, key=key, value=value: [key, value], f"{key} is ")
        for key, value in OUT_OF_RANGE
    ),
    *(Case(f"{key} {value}", lambda _, key=key, value=value: [key, value], f" {key} ") for key, value in REFUSED),
    *(Case(f"{key} {words}", lambda _, key=key, words=words: [key, *words], says) for key, words, says in TOO_LATE),
    *(
        Case(f"{key} {value} in the file", lambda place, key=key, value=value: in_file(place, key, value), f"{key} is ")
        for key in NOT_FINITE
        for value in (float("nan"), float("inf"))
    ),
    *(
        Case(f"{key} {value!r} in the file", lambda place, key=key, value=value: in_file(place, key, value), says)
        for key, value, says in OF_ANOTHER_TYPE
    ),
    Case("no processes", lambda _: ["--num-gpus", 0], "--num-gpus is 0; allowed: a positive number"),
    Case("no machines", lambda _: ["--num-machines", 0], "--num-machines is 0; allowed: a positive number"),
    Case("a machine too many", lambda _: ["--machine-rank", 1], "--machine-rank is 1; allowed: 0 for one machine"),
    Case("fewer than no processes", lambda _: ["--num-gpus=-1"], "--num-gpus is -1"),
)
