"""Every config key that this project adds to Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

# Detectron2's meta-architecture of semantic segmentation, by its registered name.
SEMANTIC_SEGMENTATION = "SemanticSegmentor"


def add_fpt_config(cfg: CN) -> None:
    """Add the keys of the Feature Pyramid Transformer and of its training tools to ``cfg``.

    The source pyramid itself is Detectron2's: ``MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}``. Values
    are checked by what they are given to, when the model is built, so that a wrong one fails before any data are read.

    Args:
        cfg: a Detectron2 config, changed in place.
    """
    from . import data, modeling  # noqa: F401  (registers what the config names)

    _add_model_config(cfg)
    _add_trunk_config(cfg)
    _add_peer_config(cfg)
    _add_roi_head_config(cfg)
    _add_sem_seg_config(cfg)
    _add_dataset_config(cfg)
    _add_training_config(cfg)


def _add_model_config(cfg: CN) -> None:
    # Whether MODEL.WEIGHTS may be a pickle (.pkl, or a .pth older than PyTorch 1.6). Nothing in one is executed, but
    # its format is made for that; False takes .safetensors and newer .pth files alone.
    cfg.MODEL.WEIGHTS_ALLOW_PICKLE = True

    fpt = cfg.MODEL.FPT = CN()
    # The pyramid that the transformers read, by its name in FPT_PYRAMID_REGISTRY: "fpn"; "bfp" (a bottom-up path over
    # it, as in PANet; the baseline of the paper's detection tables); "lateral" (no top-down path: what the authors'
    # code reads). Or a backbone that is a pyramid by itself, by its name in Detectron2's BACKBONE_REGISTRY, such as
    # "build_resnet_bifpn_backbone".
    fpt.PYRAMID = "fpn"
    # Which of the three transformers are on, by their names in FPT_BRANCH_REGISTRY: "st" (self), "gt" (grounding,
    # top-down), "rt" (rendering, bottom-up), or one's own in the place of one of them. An empty list is the plain
    # source pyramid: Detectron2's FPN, or BFP. "st_conv", "gt_conv", "st_mean" and "gt_mean" are controls without
    # attention, for an ablation.
    fpt.BRANCHES = ["st", "gt", "rt"]
    # Width in which the branches compute and enter the fusion. 256 as in the paper; 64 is the light model.
    fpt.BRANCH_CHANNELS = 256
    # What the 3x3 convolution that fuses a level's branches reads: "concat", their concatenation (the paper), or
    # "sum", their sum, at a cost that does not grow with their number.
    fpt.FUSE = "concat"
    # A level finer than this stride gathers at this stride, averaged over cells, and every position of a cell gets what
    # the cell has gathered: with 8, what p2 gathers costs a quarter. 0: every level at its own stride (the paper).
    fpt.MIN_STRIDE = 0
    # Normalisation of every branch's output, as in Detectron2's get_norm: "", "BN", "SyncBN", "GN", ...
    fpt.NORM = ""
    # Read off the zeros at the bottom and right of each image how much of it is padding, and keep the padding out of
    # the branches. False for data whose pixels can be exactly MODEL.PIXEL_MEAN there.
    fpt.READ_PADDING = True
    # Start the fusion of the branches (and the bottom-up path of "bfp") at zero: the model starts as exactly the FPN
    # whose weights it was given.
    fpt.ZERO_INIT_FUSE = True

    # Self-Transformer: number of softmaxes in the mixture. The paper uses 2.
    fpt.ST_NUM_PARTS = 2
    # Self-Transformer: add the input to its output, behind one more linear map and the norm. The paper does not; the
    # authors' code does.
    fpt.ST_RESIDUAL = False
    # Self-Transformer: scores are divided by the root of the channels of a softmax's part ("parts") or of all
    # ("channels": the authors' code). The paper states no temperature.
    fpt.ST_TEMPERATURE = "parts"
    # Normalise query and key in each part of a mixture, with a learned temperature, and start the key of every second
    # part as a copy of the query. The paper's scores (False) go with the square of the features' scale: small features
    # get the mean of all positions, large ones a single position, and neither learns. Has no effect on GT_SIMILARITY
    # "dot".
    fpt.QK_NORM = False
    # Grounding Transformer: number of softmaxes in the mixture. The paper uses 4. With GT_SIMILARITY "dot", which has
    # no softmax, it is ignored.
    fpt.GT_NUM_PARTS = 4
    # Grounding Transformer: how queries and keys are compared: "euclidean" (the paper's), "embedded" (dot product,
    # softmax), "dot" (dot product over the number of positions, no softmax: the authors' code), or one of your own in
    # SIMILARITIES.
    fpt.GT_SIMILARITY = "euclidean"
    # Grounding Transformer: which positions it reads. 0: every one (detection). Odd and > 0: those in a square of that
    # side around the query (locality-constrained grounding, for segmentation).
    fpt.GT_SQUARE_SIZE = 0
    # Rendering Transformer: how the average of the fine map weights the coarse one. "paper": before the 3x3 convolution
    # of the coarse map. "normalized": the same by that average over its root mean square, so that the scale of the
    # features enters once. "authors": after that convolution, by the ReLU of a 1x1 convolution and the norm of the
    # average (BN there needs a batch of two or more), with a ReLU and no norm after the addition.
    fpt.RT_GATE = "paper"
    # Rendering Transformer: one more 3x3 convolution after the addition, which the paper leaves open.
    fpt.RT_FINAL_CONV = True

    # Average-pool keys and values by this stride. 1 is the paper; the authors' Self-Transformer has 2.
    fpt.KV_STRIDE = 1
    # Pool the keys and values of an edge to at most this many positions, the aspect kept, so that the cost grows
    # linearly with the image. 0 keeps every position (exact).
    fpt.MAX_KV_TOKENS = 0
    # How attention is computed: "auto" picks the exact linear-memory path that suits the input; "chunked", "sdpa",
    # "triton" (kernels for CUDA GPUs, which "auto" picks in half precision) and "reference" (which stores every score;
    # small maps only) force one.
    fpt.ATTENTION_IMPL = "auto"
    # Compute the 3x3 convolutions of branches and fusion by Winograd's algorithm where that is faster: in float32 on
    # the CPU, from 128 channels on. Results and gradients differ by about 1e-5 of the largest value. False calls every
    # convolution.
    fpt.WINOGRAD = True
    # Recompute a branch in the backward pass instead of keeping its activations.
    fpt.CHECKPOINT = False
    # Log, every 20 iterations, how sharp each branch attends, "fpt/entropy/gt_p2_p4" from 0 (one key) to 1 (the mean of
    # all), and the rms of its output over that of its level, "fpt/rms/gt_p2_p4": a dead or a stuck one can be seen.
    fpt.LOG_ATTENTION = False

    # DropBlock on FPT's output, in training only: the probability of a block. 0 is off. The paper uses DropBlock, and
    # does not give its figures; the authors' code carries block size 3, drop probability 0.2, commented out.
    fpt.DROP_BLOCK_PROB = 0.0
    # Side of a dropped block, in positions of the level.
    fpt.DROP_BLOCK_SIZE = 3
    # Drop the same blocks of every channel of an image, as the package that the authors name does.
    fpt.DROP_BLOCK_SHARED = False


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
    # How non-local blocks compare: "embedded" (dot product, softmax) or "dot" (dot product over the number of
    # positions).
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
    # Normalisation of the fully connected layers of "AdaptiveBoxHead": "" or "GN" (the authors' head of two of them).
    # That head is for ROI_HEADS.NAME "AdaptiveROIHeads", which pools every RoI from every level (PANet).
    cfg.MODEL.ROI_BOX_HEAD.FC_NORM = ""
    # Whether "AdaptiveMaskHead" has PANet's class-agnostic fully connected branch.
    cfg.MODEL.ROI_MASK_HEAD.FC_FUSION = True


def _add_sem_seg_config(cfg: CN) -> None:
    # Detectron2's DeepLab project has keys for a dilated ResNet (MODEL.RESNETS.{RES4_DILATION, RES5_MULTI_GRID,
    # STEM_TYPE}), the poly learning rate (SOLVER.LR_SCHEDULER_NAME "WarmupPolyLR", SOLVER.POLY_LR_*), the crop
    # (INPUT.CROP.SINGLE_CATEGORY_MAX_AREA), ASPP (MODEL.SEM_SEG_HEAD.ASPP_*) and MODEL.SEM_SEG_HEAD.LOSS_TYPE.
    try:
        from detectron2.projects.deeplab import add_deeplab_config
    except ModuleNotFoundError:  # only semantic segmentation needs it, and fpt_d2.config_file then says so
        pass
    else:
        add_deeplab_config(cfg)

    ufp = cfg.MODEL.UFP = CN()
    # The trunk's feature that every level is made from. Its stride is that of every level:
    # RES4_DILATION 2 and RES5_DILATION 4 make it 8, RES4_DILATION 1 and RES5_DILATION 2 make it 16.
    ufp.IN_FEATURE = "res5"
    # One level for each kernel, named u1, u7, ...; the paper's.
    ufp.KERNELS = [1, 7, 15, 31]
    # Width of every level. 256 as in the paper.
    ufp.OUT_CHANNELS = 256
    # Normalisation of the pyramid's convolutions, as in Detectron2's get_norm: "", "BN", "SyncBN", "GN", ...
    ufp.NORM = ""

    head = cfg.MODEL.SEM_SEG_HEAD
    # With LOSS_TYPE "hard_pixel_mining" (bootstrapped cross entropy): the share of the labelled pixels, the hardest
    # ones, that the loss is the mean of. "cross_entropy" takes all.
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
    # Predict semantic segmentation in overlapping windows, and average the logits where they overlap; in every
    # evaluation and in the demo. For a model trained on crops of that size, and images whose activations do not fit
    # into memory.
    cfg.TEST.SLIDING_WINDOW = CN({"ENABLED": False})
    # Height and width of a window, in pixels of the scaled image (INPUT.MIN_SIZE_TEST).
    cfg.TEST.SLIDING_WINDOW.SIZE = (768, 768)
    # From one window to the next, down and right, in the same pixels.
    cfg.TEST.SLIDING_WINDOW.STRIDE = (512, 512)
    # Write each semantic prediction of an evaluation as a PNG of the data set's label ids (Cityscapes: the format of
    # its server) and as a picture over its image.
    cfg.TEST.SEM_SEG_RESULTS = False


def _add_dataset_config(cfg: CN) -> None:
    # A user's own data sets in COCO format, registered before training starts:
    # (("my_train", "annotations/train.json", "images/train"), ("my_val", "annotations/val.json", "images/val")).
    cfg.DATASETS.REGISTER_COCO = ()
    # A user's own data sets for semantic segmentation: (name, image folder, mask folder, classes). The mask of
    # x.jpg is x.png, of one channel: indices into the classes, 255 for none.
    # (("my_train", "images/train", "masks/train", ("road", "sky")), ("my_val", "images/val", "masks/val", ...)).
    cfg.DATASETS.REGISTER_SEM_SEG = ()
    # Check the files of DATASETS.TRAIN and DATASETS.TEST before training starts: annotations in COCO format and their
    # images' sizes, for semantic segmentation every mask; and that all have the same classes.
    cfg.DATASETS.CHECK = True


def _add_training_config(cfg: CN) -> None:
    # The optimizer: "SGD", as Detectron2 trains, or "AdamW" (with torch's betas; SOLVER.MOMENTUM and NESTEROV are for
    # SGD). AdamW wants another BASE_LR, about 1e-4 to 1e-3, and WEIGHT_DECAY, about 0.05: the defaults suit SGD.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Factor on the learning rate of the trunk, above 0 (the key of Mask2Former, there for all the backbone).
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    # Factor on the learning rate of the branches and of the convolutions that fuse them, above 0.
    cfg.SOLVER.FPT_MULTIPLIER = 1.0

    # Train on a few images, evaluate on a few, save nothing.
    cfg.DEBUG = CN({"ENABLED": False})
    # How many images of each data set that is.
    cfg.DEBUG.NUM_IMAGES = 8
    # How many iterations it takes.
    cfg.DEBUG.MAX_ITER = 20

    # Losses on DATASETS.TEST at every TEST.EVAL_PERIOD, logged as "validation/...".
    cfg.TEST.LOSS = False
    # Keep model_best.pth, the checkpoint with the highest value of this metric, e.g. "bbox/AP". "" keeps none.
    cfg.TEST.BEST_METRIC = ""
    # Stop when BEST_METRIC has not risen in this many evaluations. 0 never stops early.
    cfg.TEST.PATIENCE = 0
    # Who computes the AP of data sets in COCO's format: "detectron2" (its C++ code where that is compiled, otherwise
    # pycocotools), "pycocotools", or "faster-coco-eval", a package that gives pycocotools' figures in less time.
    cfg.TEST.COCO_EVAL = "detectron2"
    # Draw the predictions on this many images of DATASETS.TEST into TensorBoard at every TEST.EVAL_PERIOD.
    cfg.TEST.VIS_IMAGES = 0

    log = cfg.LOG = CN()
    # Show in the terminal all that log.txt of OUTPUT_DIR has: the environment, the full config, the model, how data are
    # stored. False shows what a reader follows: data sets, weights, progress and results.
    log.VERBOSE = False
