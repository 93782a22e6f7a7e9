"""Every config key that this project adds to Detectron2's."""

from typing import List, Tuple

from detectron2.config import CfgNode as CN
from detectron2.projects.deeplab import add_deeplab_config

from .core.attention import IMPLEMENTATIONS as IMPLS

# Registered names.
SEMANTIC_SEGMENTATION = "SemanticSegmentor"  # Detectron2's
UFP_BACKBONE = "build_resnet_ufp_backbone"
SEM_SEG_HEADS = ("build_ufp_head", "build_ppm_head", "build_aspp_head", "build_oc_head")

LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")

# What Detectron2's RandomCrop knows.
CROP_TYPES = ("relative", "relative_range", "absolute", "absolute_range")

# What Detectron2's get_norm knows.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")

# Key, its value, is that allowed, what is allowed.
Rule = Tuple[str, object, bool, str]


def add_fpt_config(cfg: CN) -> None:
    """Add the keys of the Feature Pyramid Transformer and of its training tools to ``cfg``.

    The source pyramid itself is Detectron2's: ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}``. Values
    are checked when the model is built, so that a wrong one fails before any data are read.

    Args:
        cfg: a Detectron2 config, changed in place.
    """
    _add_model_config(cfg)
    _add_trunk_config(cfg)
    _add_peer_config(cfg)
    _add_roi_head_config(cfg)
    _add_sem_seg_config(cfg)
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


def _add_trunk_config(cfg: CN) -> None:
    trunk = cfg.MODEL.TRUNK = CN()
    # The bottom-up backbone of every neck of this project, by its name in Detectron2's BACKBONE_REGISTRY:
    # "build_resnet_backbone" (MODEL.RESNETS), "build_torchvision_backbone", "build_timm_backbone", or one's own. Not of
    # UFP, which has a dilated ResNet.
    trunk.BUILDER = "build_resnet_backbone"
    # The model of torchvision or timm, e.g. "convnext_tiny", "efficientnet_b0", "resnet50.a1_in1k".
    trunk.NAME = ""
    # torchvision: the modules whose outputs are the features, fine to coarse. They are then called res2 (stride 4) to
    # res5 (stride 32), as MODEL.FPN.IN_FEATURES names them.
    trunk.LAYERS = []
    # Start with the library's own weights, which it downloads, unless there are MODEL.WEIGHTS. They want INPUT.FORMAT
    # "RGB" and a PIXEL_STD.
    trunk.PRETRAINED = False
    # Batch norms of a torchvision or timm model: "FrozenBN" (as MODEL.RESNETS.NORM is by default), "BN" or "SyncBN".
    trunk.NORM = "FrozenBN"

    # Attention in a ResNet (the NL, GC and AA trunks of the paper's tables), as lists of places: "res4.5" is block 5 of
    # res4, "res4.-2" its last but one, "res4" all its blocks. All start as if they were absent.
    plugins = cfg.MODEL.PLUGINS = CN()
    # Non-local blocks. Their paper has one at res4.-2, or five: res3.1, res3.3, res4.1, res4.3, res4.5.
    plugins.NON_LOCAL = []
    # "embedded" (dot product, softmax) or "dot" (dot product over the number of positions).
    plugins.NON_LOCAL_SIMILARITY = "embedded"
    # Global context blocks. Their paper has them all through res3, res4, res5.
    plugins.GLOBAL_CONTEXT = []
    # Attention-augmented convolutions. Their paper has them all through res3, res4, res5; at the sizes of detection
    # those of res3 cost several times the trunk.
    plugins.ATTENTION_AUGMENTED = []


def _add_peer_config(cfg: CN) -> None:
    # BiFPN has the features and the width of MODEL.FPN, whose NORM is that of its laterals.
    bifpn = cfg.MODEL.BIFPN = CN()
    # How often the two-way pyramid is repeated. EfficientDet-D0 has 3.
    bifpn.NUM_LAYERS = 3
    # Normalisation of the fusing convolutions. EfficientDet has batch norm over large batches; "GN" suits small ones.
    bifpn.NORM = "GN"


def _add_roi_head_config(cfg: CN) -> None:
    # Heads for ROI_HEADS.NAME "AdaptiveROIHeads", which pools every RoI from every level (PANet).
    # Normalisation of the fully connected layers of "AdaptiveBoxHead": "" or "GN" (the authors' head of two of them).
    cfg.MODEL.ROI_BOX_HEAD.FC_NORM = ""
    # The class-agnostic fully connected branch of "AdaptiveMaskHead" (PANet).
    cfg.MODEL.ROI_MASK_HEAD.FC_FUSION = True


def _add_sem_seg_config(cfg: CN) -> None:
    # Detectron2's DeepLab project has keys for a dilated ResNet (MODEL.RESNETS.{RES4_DILATION, RES5_MULTI_GRID,
    # STEM_TYPE}), the poly learning rate (SOLVER.LR_SCHEDULER_NAME "WarmupPolyLR", SOLVER.POLY_LR_*), the crop
    # (INPUT.CROP.SINGLE_CATEGORY_MAX_AREA), ASPP (MODEL.SEM_SEG_HEAD.ASPP_*) and MODEL.SEM_SEG_HEAD.LOSS_TYPE.
    add_deeplab_config(cfg)

    ufp = cfg.MODEL.UFP = CN()
    # The trunk's feature that every level is made from. Its stride is that of every level:
    # RES4_DILATION 2 and RES5_DILATION 4 make it 8, RES4_DILATION 1 and RES5_DILATION 2 make it 16.
    ufp.IN_FEATURE = "res5"
    # One level for each kernel, named u1, u7, ...; the paper's.
    ufp.KERNELS = [1, 7, 15, 31]
    # Of every level. 256 as in the paper.
    ufp.OUT_CHANNELS = 256
    # Normalisation of the pyramid's convolutions, as in Detectron2's get_norm: "", "BN", "SyncBN", "GN", ...
    ufp.NORM = ""

    head = cfg.MODEL.SEM_SEG_HEAD
    # Share of the labelled pixels, the hardest ones, that the loss is the mean of. Where LOSS_TYPE is
    # "hard_pixel_mining" (bootstrapped cross entropy); "cross_entropy" takes all.
    head.LOSS_TOP_K = 0.2
    # The trunk's feature that an auxiliary classifier reads in training, e.g. "res4" (which then must be among
    # MODEL.RESNETS.OUT_FEATURES). "" for none.
    head.AUX_FEATURE = ""
    # Weight of the auxiliary loss, times LOSS_WEIGHT. 0.4 as in PSPNet.
    head.AUX_LOSS_WEIGHT = 0.4
    # Sides of the grids that build_ppm_head pools to. PSPNet's.
    head.PPM_BINS = [1, 2, 3, 6]

    # In training of semantic segmentation change brightness, contrast, saturation and hue at random, as SSD does. The
    # key of Detectron2's PointRend project.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Predict semantic segmentation in overlapping windows of SIZE (height, width), STRIDE (down, right) apart, and
    # average the logits where they overlap; in every evaluation and in the demo. For a model trained on crops of that
    # size, and images whose activations do not fit into memory. Pixels of the scaled image (INPUT.MIN_SIZE_TEST).
    cfg.TEST.SLIDING_WINDOW = CN({"ENABLED": False})
    cfg.TEST.SLIDING_WINDOW.SIZE = (768, 768)
    cfg.TEST.SLIDING_WINDOW.STRIDE = (512, 512)
    # Write each semantic prediction of an evaluation as a PNG of the data set's label ids (Cityscapes: the format of
    # its server) and as a picture over its image.
    cfg.TEST.SEM_SEG_RESULTS = False


def _add_dataset_config(cfg: CN) -> None:
    # A user's own data sets in COCO format, registered before training starts:
    # (("my_train", "annotations/train.json", "images/train"), ("my_val", "annotations/val.json", "images/val")).
    cfg.DATASETS.REGISTER_COCO = ()
    # The same for semantic segmentation: (name, image folder, mask folder, classes). The mask of x.jpg is x.png, of
    # one channel: indices into the classes, 255 for none.
    # (("my_train", "images/train", "masks/train", ("road", "sky")), ("my_val", "images/val", "masks/val", ...)).
    cfg.DATASETS.REGISTER_SEM_SEG = ()
    # Check the files of DATASETS.TRAIN and DATASETS.TEST before training starts: annotations in COCO format, and for
    # semantic segmentation every mask.
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


def add_point_rend_config(cfg: CN, config_file: str) -> None:
    """Add the keys of Detectron2's PointRend project to ``cfg`` if a config file, or one that it is based on, has any.

    Only then, because importing that project registers its heads, which a user's own copy of it would do too.

    Raises:
        ValueError: the file needs the project, and it is not there.
    """
    model = CN.load_yaml_with_base(config_file, allow_unsafe=True).get("MODEL")
    if not isinstance(model, dict) or "POINT_HEAD" not in model:
        return
    try:
        from detectron2.projects.point_rend import add_pointrend_config
    except ModuleNotFoundError as error:
        raise ValueError(
            f"MODEL.POINT_HEAD in {config_file} is of Detectron2's PointRend project, which this Detectron2 comes "
            "without: install one that has detectron2.projects.point_rend"
        ) from error
    add_pointrend_config(cfg)


def check_model_config(cfg: CN) -> None:
    """Check every value that the model of ``cfg`` has of this project.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    check_fpt_config(cfg)
    if cfg.MODEL.BACKBONE.NAME == UFP_BACKBONE:
        check_ufp_config(cfg)
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        check_sem_seg_data_config(cfg)
        if cfg.MODEL.SEM_SEG_HEAD.NAME in SEM_SEG_HEADS:
            check_sem_seg_head_config(cfg)


def check_fpt_config(cfg: CN) -> None:
    """Check every value of ``MODEL.FPT``, of the trunk below it and of its peers.

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
        ("NORM", fpt.NORM in NORMS, ", ".join(map(repr, NORMS))),
        ("NORM", not (fpt.NORM == "GN" and fpt.BRANCH_CHANNELS % 32), "'GN' where 32 divides BRANCH_CHANNELS"),
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
    fpt_rules = [(f"MODEL.FPT.{key}", fpt[key], fine, allowed) for key, fine, allowed in rules]
    _raise_bad([*fpt_rules, *_trunk_rules(cfg), *_bifpn_rules(cfg), *_roi_head_rules(cfg)])


def check_trunk_config(cfg: CN) -> None:
    """Check every value of ``MODEL.TRUNK`` and ``MODEL.PLUGINS``.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    _raise_bad(_trunk_rules(cfg))


def check_bifpn_config(cfg: CN) -> None:
    """Check every value of ``MODEL.BIFPN``.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    _raise_bad(_bifpn_rules(cfg))


def check_roi_head_config(cfg: CN) -> None:
    """Check the values of the RoI heads that this project's heads read.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    _raise_bad(_roi_head_rules(cfg))


def _trunk_rules(cfg: CN) -> List[Rule]:
    trunk, plugins = cfg.MODEL.TRUNK, cfg.MODEL.PLUGINS
    library = trunk.BUILDER in ("build_torchvision_backbone", "build_timm_backbone")
    layers = trunk.BUILDER != "build_torchvision_backbone" or len(trunk.LAYERS) > 0
    similarity = plugins.NON_LOCAL_SIMILARITY
    rules = [
        ("NAME", bool(trunk.NAME) or not library, f"the name of a model, where BUILDER is '{trunk.BUILDER}'"),
        ("LAYERS", layers, "the modules whose outputs are the features, where BUILDER is 'build_torchvision_backbone'"),
        ("NORM", trunk.NORM in ("FrozenBN", "BN", "SyncBN"), "'FrozenBN', 'BN' or 'SyncBN'"),
    ]
    return [
        *((f"MODEL.TRUNK.{key}", trunk[key], fine, allowed) for key, fine, allowed in rules),
        ("MODEL.PLUGINS.NON_LOCAL_SIMILARITY", similarity, similarity in ("embedded", "dot"), "'embedded' or 'dot'"),
    ]


def _bifpn_rules(cfg: CN) -> List[Rule]:
    bifpn, width = cfg.MODEL.BIFPN, cfg.MODEL.FPN.OUT_CHANNELS
    used = "bifpn" in cfg.MODEL.BACKBONE.NAME
    return [
        ("MODEL.BIFPN.NUM_LAYERS", bifpn.NUM_LAYERS, bifpn.NUM_LAYERS > 0, "1 or more"),
        ("MODEL.BIFPN.NORM", bifpn.NORM, bifpn.NORM in NORMS, ", ".join(map(repr, NORMS))),
        (
            "MODEL.BIFPN.NORM",
            bifpn.NORM,
            not (used and bifpn.NORM == "GN" and width % 32),
            f"'GN' where 32 divides MODEL.FPN.OUT_CHANNELS, which is {width}",
        ),
    ]


def _roi_head_rules(cfg: CN) -> List[Rule]:
    heads, box, mask = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    pools_all = heads in ("AdaptiveROIHeads", "AdaptiveCascadeROIHeads")
    pools_one = heads in ("StandardROIHeads", "CascadeROIHeads", "Res5ROIHeads")
    boxes, masks = box.NAME == "AdaptiveBoxHead", mask.NAME == "AdaptiveMaskHead"
    box_fits = not (boxes and pools_one) and not (pools_all and box.NAME == "FastRCNNConvFCHead")
    mask_fits = not (masks and pools_one) and not (pools_all and mask.NAME == "MaskRCNNConvUpsampleHead")
    fitting = f"one for MODEL.ROI_HEADS.NAME {heads!r}; the Adaptive... heads go with Adaptive(Cascade)ROIHeads alone"
    return [
        ("MODEL.ROI_BOX_HEAD.NAME", box.NAME, box_fits, fitting),
        ("MODEL.ROI_BOX_HEAD.FC_NORM", box.FC_NORM, box.FC_NORM in ("", "GN"), "'' or 'GN'"),
        ("MODEL.ROI_MASK_HEAD.NAME", mask.NAME, mask_fits or not cfg.MODEL.MASK_ON, fitting),
        ("MODEL.ROI_MASK_HEAD.NUM_CONV", mask.NUM_CONV, mask.NUM_CONV > 1 or not masks, "2 or more"),
        *_point_rend_rules(cfg),
    ]


def _point_rend_rules(cfg: CN) -> List[Rule]:
    if "POINT_HEAD" not in cfg.MODEL or cfg.MODEL.ROI_MASK_HEAD.NAME != "PointRendMaskHead":
        return []
    classes, all_classes = cfg.MODEL.POINT_HEAD.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    masks = cfg.INPUT.MASK_FORMAT
    return [
        ("MODEL.POINT_HEAD.NUM_CLASSES", classes, classes == all_classes, f"MODEL.ROI_HEADS.NUM_CLASSES {all_classes}"),
        ("INPUT.MASK_FORMAT", masks, masks == "bitmask", "'bitmask' for MODEL.ROI_MASK_HEAD.NAME 'PointRendMaskHead'"),
    ]


def check_ufp_config(cfg: CN) -> None:
    """Check every value of ``MODEL.UFP`` and of the dilated trunk below it.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    resnets, ufp, kernels = cfg.MODEL.RESNETS, cfg.MODEL.UFP, list(cfg.MODEL.UFP.KERNELS)
    ascending = kernels == sorted(set(kernels)) and bool(kernels)
    dilations = (resnets.RES4_DILATION, resnets.RES5_DILATION)
    strides = "(2, 4) for stride 8, (1, 2) for stride 16, (1, 1) for stride 32"
    in_features = f"one of MODEL.RESNETS.OUT_FEATURES = {resnets.OUT_FEATURES}"
    rules = [
        ("RESNETS.DEPTH", resnets.DEPTH, resnets.DEPTH in (50, 101, 152), "50, 101, 152"),
        ("RESNETS.(RES4_DILATION, RES5_DILATION)", dilations, dilations in ((2, 4), (1, 2), (1, 1)), strides),
        ("RESNETS.STEM_TYPE", resnets.STEM_TYPE, resnets.STEM_TYPE in ("basic", "deeplab"), "'basic', 'deeplab'"),
        ("UFP.IN_FEATURE", ufp.IN_FEATURE, ufp.IN_FEATURE in resnets.OUT_FEATURES, in_features),
        ("UFP.KERNELS", kernels, ascending and all(k > 0 and k % 2 == 1 for k in kernels), "odd, ascending numbers"),
        ("UFP.OUT_CHANNELS", ufp.OUT_CHANNELS, ufp.OUT_CHANNELS > 0, "a positive number"),
    ]
    _raise_bad([(f"MODEL.{key}", value, fine, allowed) for key, value, fine, allowed in rules])


def check_sem_seg_head_config(cfg: CN) -> None:
    """Check the values of ``MODEL.SEM_SEG_HEAD`` that this project's heads read.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    # Of another backbone the features are known only when the model is built.
    is_ufp = cfg.MODEL.BACKBONE.NAME == UFP_BACKBONE
    features = [*cfg.MODEL.RESNETS.OUT_FEATURES, *(f"u{kernel}" for kernel in cfg.MODEL.UFP.KERNELS)]
    has_levels = bool(head.IN_FEATURES) and set(head.IN_FEATURES) <= set(features)
    of_ufp = f"any of {features} (MODEL.RESNETS.OUT_FEATURES, MODEL.UFP.KERNELS)"
    # key, is its value allowed, what is allowed
    rules = [
        ("LOSS_TYPE", head.LOSS_TYPE in LOSS_TYPES, ", ".join(map(repr, LOSS_TYPES))),
        ("LOSS_TOP_K", 0 < head.LOSS_TOP_K <= 1, "above 0, up to 1"),
        ("AUX_LOSS_WEIGHT", head.AUX_LOSS_WEIGHT >= 0, "0 or more"),
        ("PPM_BINS", len(head.PPM_BINS) > 0 and min(head.PPM_BINS) > 0, "positive numbers"),
        ("ASPP_DILATIONS", len(head.ASPP_DILATIONS) == 3 and min(head.ASPP_DILATIONS) > 0, "three positive numbers"),
        ("IN_FEATURES", has_levels or not is_ufp, of_ufp),
        ("AUX_FEATURE", head.AUX_FEATURE in ("", *features) or not is_ufp, f"'' (off), {of_ufp}"),
        ("ASPP_DROPOUT", 0 <= head.ASPP_DROPOUT < 1, "0 (off) up to below 1"),
    ]
    _raise_bad([(f"MODEL.SEM_SEG_HEAD.{key}", head[key], fine, allowed) for key, fine, allowed in rules])


def check_sem_seg_data_config(cfg: CN) -> None:
    """Check the values of ``INPUT`` and ``TEST`` by which images of semantic segmentation are cut and put together.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    inputs, crop, window = cfg.INPUT, cfg.INPUT.CROP, cfg.TEST.SLIDING_WINDOW
    flips, share = ("horizontal", "vertical", "none"), crop.SINGLE_CATEGORY_MAX_AREA
    pair = len(crop.SIZE) == 2 and min(crop.SIZE) > 0
    absolute = crop.TYPE.startswith("absolute")
    fits = all(isinstance(x, int) for x in crop.SIZE) if absolute else max(crop.SIZE, default=0) <= 1
    fits = pair and fits and not (crop.TYPE == "absolute_range" and crop.SIZE[0] > crop.SIZE[1])
    size, stride = window.SIZE, window.STRIDE
    has_size = len(size) == 2 and min(size) > 0
    slides = len(stride) == 2 and all(0 < x <= y for x, y in zip(stride, size))
    # key, value, is it allowed, what is allowed
    rules = [
        ("INPUT.RANDOM_FLIP", inputs.RANDOM_FLIP, inputs.RANDOM_FLIP in flips, ", ".join(map(repr, flips))),
        ("INPUT.FORMAT", inputs.FORMAT, inputs.FORMAT in ("RGB", "BGR") or not inputs.COLOR_AUG_SSD, "'RGB', 'BGR'"),
        ("INPUT.CROP.TYPE", crop.TYPE, crop.TYPE in CROP_TYPES, ", ".join(map(repr, CROP_TYPES))),
        ("INPUT.CROP.SIZE", crop.SIZE, fits, "two numbers of pixels where TYPE is absolute, else two shares up to 1"),
        ("INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", share, 0 < share <= 1, "above 0, up to 1 (off)"),
        ("TEST.SLIDING_WINDOW.SIZE", size, has_size, "two positive numbers"),
        ("TEST.SLIDING_WINDOW.STRIDE", stride, slides, "two positive numbers, at most those of SIZE"),
    ]
    _raise_bad(rules)


def _raise_bad(rules: List[Rule]) -> None:
    bad = [f"{key} is {value!r}; allowed: {allowed}" for key, value, fine, allowed in rules if not fine]
    if bad:
        raise ValueError(". ".join(bad))


def _divides(parts: int, channels: int) -> bool:
    return parts > 0 and channels % parts == 0
