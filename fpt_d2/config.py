"""Every config key that this project adds to Detectron2's."""

from detectron2.config import CfgNode as CN

from .core.attention import IMPLEMENTATIONS as IMPLS


def add_fpt_config(cfg: CN) -> None:
    """Add the keys of the Feature Pyramid Transformer and of its training tools to ``cfg``.

    The source pyramid itself is Detectron2's: ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}``. Values
    are checked when the model is built, so that a wrong one fails before any data are read.

    Args:
        cfg: a Detectron2 config, changed in place.
    """
    _add_model_config(cfg)
    _add_dataset_config(cfg)
    _add_training_config(cfg)


def _add_model_config(cfg: CN) -> None:
    fpt = cfg.MODEL.FPT = CN()
    # The pyramid that the transformers read: "fpn", or "bfp" (a bottom-up path over it, as in PANet; the baseline
    # of the paper's detection tables).
    fpt.PYRAMID = "fpn"
    # Which of the three transformers are on: any of "st" (self), "gt" (grounding, top-down), "rt" (rendering,
    # bottom-up). An empty list is the plain source pyramid: Detectron2's FPN, or BFP.
    fpt.BRANCHES = ["st", "gt", "rt"]
    # Width in which the branches compute and enter the fusion. 256 as in the paper; 64 is the light model.
    fpt.BRANCH_CHANNELS = 256
    # Normalisation of every branch's output, as in Detectron2's get_norm: "", "BN", "SyncBN", "GN", ...
    fpt.NORM = ""
    # Start the fusion of the branches (and the bottom-up path of "bfp") at zero: the model starts as exactly the FPN
    # whose weights it was given.
    fpt.ZERO_INIT_FUSE = True

    # Self-Transformer: number of softmaxes in the mixture. The paper uses 2.
    fpt.ST_NUM_PARTS = 2
    # Grounding Transformer: number of softmaxes in the mixture. The paper uses 4. "dot" has no softmax and ignores it.
    fpt.GT_NUM_PARTS = 4
    # "euclidean" (the paper's), "embedded" (dot product, softmax) or "dot" (dot product over the number of
    # positions, no softmax: the authors' code).
    fpt.GT_SIMILARITY = "euclidean"
    # 0: every coarse position (detection). Odd and > 0: only those in a square of that side around the query
    # (locality-constrained grounding, for segmentation).
    fpt.GT_SQUARE_SIZE = 0
    # Rendering Transformer: one more 3x3 convolution after the addition.
    fpt.RT_FINAL_CONV = True

    # Average-pool keys and values by this stride. 1 is the paper; the authors' Self-Transformer has 2.
    fpt.KV_STRIDE = 1
    # Pool the keys and values of an edge to at most this many positions, the aspect kept, so that the cost grows
    # linearly with the image. 0 keeps every position (exact).
    fpt.MAX_KV_TOKENS = 0
    # How attention is computed: "auto" picks the exact linear-memory path that suits the input; "chunked", "sdpa" and
    # "reference" (which stores every score; small maps only) force one.
    fpt.ATTENTION_IMPL = "auto"
    # Recompute a branch in the backward pass instead of keeping its activations.
    fpt.CHECKPOINT = False

    # DropBlock on FPT's output, in training only. The paper uses it without giving its figures; the authors' code
    # carries block size 3, drop probability 0.2, commented out. 0 is off.
    fpt.DROP_BLOCK_PROB = 0.0
    fpt.DROP_BLOCK_SIZE = 3


def _add_dataset_config(cfg: CN) -> None:
    # A user's own data sets in COCO format, registered before training starts:
    # (("my_train", "annotations/train.json", "images/train"), ("my_val", "annotations/val.json", "images/val")).
    cfg.DATASETS.REGISTER_COCO = ()
    # Check the annotation files of DATASETS.TRAIN and DATASETS.TEST in COCO format before training starts.
    cfg.DATASETS.CHECK = True


def _add_training_config(cfg: CN) -> None:
    # Train on a few images, evaluate on a few, save nothing.
    cfg.DEBUG = CN({"ENABLED": False})
    cfg.DEBUG.NUM_IMAGES = 8
    cfg.DEBUG.MAX_ITER = 20

    # Losses on DATASETS.TEST at every TEST.EVAL_PERIOD, logged as "validation/...".
    cfg.TEST.LOSS = False
    # Keep model_best.pth, the checkpoint with the highest value of this metric, e.g. "bbox/AP". "" keeps none.
    cfg.TEST.BEST_METRIC = ""
    # Stop when BEST_METRIC has not risen in this many evaluations. 0 never stops early.
    cfg.TEST.PATIENCE = 0
    # Draw the predictions on this many images of DATASETS.TEST into TensorBoard at every TEST.EVAL_PERIOD.
    cfg.TEST.VIS_IMAGES = 0


def check_fpt_config(cfg: CN) -> None:
    """Check every value of ``MODEL.FPT``.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    fpt = cfg.MODEL.FPT
    parts = f"a positive divisor of MODEL.FPT.BRANCH_CHANNELS = {fpt.BRANCH_CHANNELS}"
    square = fpt.GT_SQUARE_SIZE
    # key, is its value allowed, what is allowed
    rules = [
        ("PYRAMID", fpt.PYRAMID in ("fpn", "bfp"), "'fpn' or 'bfp'"),
        ("BRANCHES", set(fpt.BRANCHES) <= {"st", "gt", "rt"}, "any of 'st', 'gt', 'rt'"),
        ("BRANCH_CHANNELS", fpt.BRANCH_CHANNELS > 0, "a positive number"),
        ("ST_NUM_PARTS", _divides(fpt.ST_NUM_PARTS, fpt.BRANCH_CHANNELS), parts),
        ("GT_NUM_PARTS", _divides(fpt.GT_NUM_PARTS, fpt.BRANCH_CHANNELS), parts),
        ("GT_SIMILARITY", fpt.GT_SIMILARITY in ("euclidean", "embedded", "dot"), "'euclidean', 'embedded' or 'dot'"),
        ("GT_SIMILARITY", not (square and fpt.GT_SIMILARITY == "dot"), "a softmax where GT_SQUARE_SIZE > 0"),
        ("GT_SQUARE_SIZE", square == 0 or (square > 0 and square % 2 == 1), "0 or an odd number"),
        ("KV_STRIDE", fpt.KV_STRIDE >= 1, "1 or more"),
        ("MAX_KV_TOKENS", fpt.MAX_KV_TOKENS >= 0, "0 (no bound) or more"),
        ("ATTENTION_IMPL", fpt.ATTENTION_IMPL in IMPLS, ", ".join(map(repr, IMPLS))),
        ("DROP_BLOCK_PROB", 0 <= fpt.DROP_BLOCK_PROB < 1, "0 (off) up to below 1"),
        ("DROP_BLOCK_SIZE", fpt.DROP_BLOCK_SIZE > 0 and fpt.DROP_BLOCK_SIZE % 2 == 1, "a positive odd number"),
    ]
    bad = [f"MODEL.FPT.{key} is {fpt[key]!r}; allowed: {allowed}" for key, fine, allowed in rules if not fine]
    if bad:
        raise ValueError(". ".join(bad))


def _divides(parts: int, channels: int) -> bool:
    return parts > 0 and channels % parts == 0
