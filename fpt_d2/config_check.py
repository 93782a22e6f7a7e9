"""Is every value of a config that this project reads one that it knows?"""

from typing import List, Sequence, Tuple

from detectron2.config import CfgNode as CN

from .config import SEMANTIC_SEGMENTATION
from .core.attention import IMPLEMENTATIONS as IMPLS
from .core.pyramid import BRANCHES
from .core.transformers import SIMILARITIES

# Registered names.
UFP_BACKBONE = "build_resnet_ufp_backbone"
SEM_SEG_HEADS = ("build_ufp_head", "build_ppm_head", "build_aspp_head", "build_oc_head")

LOSS_TYPES = ("cross_entropy", "hard_pixel_mining")

# Ours and Detectron2's with a ResNet below, and the depths that it knows.
RESNET_BACKBONES = (
    *("build_resnet_backbone", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"),
    *("build_resnet_fpt_backbone", "build_retinanet_resnet_fpt_backbone"),
    *("build_resnet_bifpn_backbone", "build_retinanet_resnet_bifpn_backbone"),
)
DEPTHS = (18, 34, 50, 101, 152)

# What Detectron2's RandomCrop knows.
CROP_TYPES = ("relative", "relative_range", "absolute", "absolute_range")

# What Detectron2's get_norm knows.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")

# Key, its value, is that allowed, what is allowed.
Rule = Tuple[str, object, bool, str]


def check_model_config(cfg: CN) -> None:
    """Check every value that the model of ``cfg`` has of this project.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    _raise_bad([*_fpt_rules(cfg), *_trunk_rules(cfg), *_bifpn_rules(cfg), *_roi_head_rules(cfg)])
    if cfg.MODEL.BACKBONE.NAME == UFP_BACKBONE:
        check_ufp_config(cfg)
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        check_sem_seg_data_config(cfg)
        if cfg.MODEL.SEM_SEG_HEAD.NAME in SEM_SEG_HEADS:
            check_sem_seg_head_config(cfg)


def check_fpt_config(cfg: CN) -> None:
    """Check every value of ``MODEL.FPT``.

    Raises:
        ValueError: naming each key with a bad value, the value, and what is allowed.
    """
    _raise_bad(_fpt_rules(cfg))


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


def _fpt_rules(cfg: CN) -> List[Rule]:
    fpt = cfg.MODEL.FPT
    parts = f"a positive divisor of MODEL.FPT.BRANCH_CHANNELS = {fpt.BRANCH_CHANNELS}"
    square = fpt.GT_SQUARE_SIZE
    # key, is its value allowed, what is allowed
    rules = [
        ("PYRAMID", fpt.PYRAMID in ("fpn", "bfp"), "'fpn' or 'bfp'"),
        ("BRANCHES", _are_distinct(fpt.BRANCHES, BRANCHES), f"any of {', '.join(map(repr, BRANCHES))}, each once"),
        ("BRANCH_CHANNELS", fpt.BRANCH_CHANNELS > 0, "a positive number"),
        ("NORM", fpt.NORM in NORMS, ", ".join(map(repr, NORMS))),
        ("NORM", not (fpt.NORM == "GN" and fpt.BRANCH_CHANNELS % 32), "'GN' where 32 divides BRANCH_CHANNELS"),
        ("ST_NUM_PARTS", _divides(fpt.ST_NUM_PARTS, fpt.BRANCH_CHANNELS), parts),
        ("GT_NUM_PARTS", _divides(fpt.GT_NUM_PARTS, fpt.BRANCH_CHANNELS), parts),
        ("GT_SIMILARITY", fpt.GT_SIMILARITY in SIMILARITIES, ", ".join(map(repr, SIMILARITIES))),
        ("GT_SIMILARITY", not (square and fpt.GT_SIMILARITY == "dot"), "a softmax where GT_SQUARE_SIZE > 0"),
        ("GT_SQUARE_SIZE", square == 0 or (square > 0 and square % 2 == 1), "0 or an odd number"),
        ("KV_STRIDE", fpt.KV_STRIDE >= 1, "1 or more"),
        ("MAX_KV_TOKENS", fpt.MAX_KV_TOKENS >= 0, "0 (no bound) or more"),
        ("ATTENTION_IMPL", fpt.ATTENTION_IMPL in IMPLS, ", ".join(map(repr, IMPLS))),
        ("DROP_BLOCK_PROB", 0 <= fpt.DROP_BLOCK_PROB < 1, "0 (off) up to below 1"),
        ("DROP_BLOCK_SIZE", fpt.DROP_BLOCK_SIZE > 0 and fpt.DROP_BLOCK_SIZE % 2 == 1, "a positive odd number"),
    ]
    return [(f"MODEL.FPT.{key}", fpt[key], fine, allowed) for key, fine, allowed in rules]


def _trunk_rules(cfg: CN) -> List[Rule]:
    trunk, plugins = cfg.MODEL.TRUNK, cfg.MODEL.PLUGINS
    library = trunk.BUILDER in ("build_torchvision_backbone", "build_timm_backbone")
    layers = trunk.BUILDER != "build_torchvision_backbone" or len(trunk.LAYERS) > 0
    similarity, depth = plugins.NON_LOCAL_SIMILARITY, cfg.MODEL.RESNETS.DEPTH
    has_depth = trunk.BUILDER == "build_resnet_backbone" and cfg.MODEL.BACKBONE.NAME in RESNET_BACKBONES
    rules = [
        ("NAME", bool(trunk.NAME) or not library, f"the name of a model, where BUILDER is '{trunk.BUILDER}'"),
        ("LAYERS", layers, "the modules whose outputs are the features, where BUILDER is 'build_torchvision_backbone'"),
        ("NORM", trunk.NORM in ("FrozenBN", "BN", "SyncBN"), "'FrozenBN', 'BN' or 'SyncBN'"),
    ]
    return [
        *((f"MODEL.TRUNK.{key}", trunk[key], fine, allowed) for key, fine, allowed in rules),
        ("MODEL.RESNETS.DEPTH", depth, depth in DEPTHS or not has_depth, ", ".join(map(str, DEPTHS))),
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


def _are_distinct(values: Sequence[object], known: Sequence[object]) -> bool:
    return all(value in known and list(values).count(value) == 1 for value in values)


def _divides(parts: int, channels: int) -> bool:
    return parts > 0 and channels % parts == 0
