"""The names that lazy configs have for what YAML configs say: one set of limits and of sentences serves both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import UserError

# Key of a lazy config, or a pattern of such keys -> the key of a YAML config that means the same.
TWINS = {
    "train.output_dir": "OUTPUT_DIR",
    "train.init_checkpoint": "MODEL.WEIGHTS",
    "train.weights_allow_pickle": "MODEL.WEIGHTS_ALLOW_PICKLE",
    "train.device": "MODEL.DEVICE",
    "train.seed": "SEED",
    "train.cudnn_benchmark": "CUDNN_BENCHMARK",
    "train.max_iter": "SOLVER.MAX_ITER",
    "train.amp.enabled": "SOLVER.AMP.ENABLED",
    "train.verbose": "LOG.VERBOSE",
    "train.checkpointer.period": "SOLVER.CHECKPOINT_PERIOD",
    "train.eval_period": "TEST.EVAL_PERIOD",
    "dataloader.train.total_batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.train.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.train.aspect_ratio_grouping": "DATALOADER.ASPECT_RATIO_GROUPING",
    "dataloader.train.mapper.image_format": "INPUT.FORMAT",
    "dataloader.train.mapper.instance_mask_format": "INPUT.MASK_FORMAT",
    "optimizer.lr": "SOLVER.BASE_LR",
    "optimizer.momentum": "SOLVER.MOMENTUM",
    "optimizer.nesterov": "SOLVER.NESTEROV",
    "optimizer.weight_decay": "SOLVER.WEIGHT_DECAY",
    "optimizer.params.weight_decay_norm": "SOLVER.WEIGHT_DECAY_NORM",
    "optimizer.params.bias_lr_factor": "SOLVER.BIAS_LR_FACTOR",
    "lr_multiplier.warmup_factor": "SOLVER.WARMUP_FACTOR",
    "lr_multiplier.rescale_interval": "SOLVER.RESCALE_INTERVAL",
    "model.pixel_mean": "MODEL.PIXEL_MEAN",
    "model.pixel_std": "MODEL.PIXEL_STD",
    "model.num_classes": "MODEL.RETINANET.NUM_CLASSES",
    "model.roi_heads.num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
}
# Key of a lazy config -> a key of a YAML config whose type and limits it has.
ALIKE = {
    "train.log_period": "SOLVER.CHECKPOINT_PERIOD",
    "train.checkpointer.max_to_keep": "SOLVER.CHECKPOINT_PERIOD",
    "dataloader.test.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.test.batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.test.mapper.image_format": "INPUT.FORMAT",
    "optimizer.params.base_lr": "SOLVER.BASE_LR",
    "optimizer.params.weight_decay_bias": "SOLVER.WEIGHT_DECAY_BIAS",
    "optimizer.params.backbone_multiplier": "SOLVER.BACKBONE_MULTIPLIER",
    "optimizer.params.fpt_multiplier": "SOLVER.FPT_MULTIPLIER",
    "lr_multiplier.warmup_length": "SOLVER.WARMUP_FACTOR",
}
# Other words of the sentences that both share.
_WORDS = {
    **{yaml: lazy for lazy, yaml in TWINS.items()},
    "SOLVER.WARMUP_ITERS": "lr_multiplier.warmup_length",
    "the NORM keys": "its norms",
    "MODEL.MASK_ON False": "use_instance_mask of the mappers to False",
    "MODEL.MASK_ON": "model.roi_heads.mask_head",
    "MODEL.KEYPOINT_ON": "model.roi_heads.keypoint_head",
    "MODEL.RESNETS.DEPTH": "model.backbone.bottom_up.stages.depth",
    "MODEL.RESNETS.NORM": "model.backbone.bottom_up.stages.norm",
    "MODEL.FPN.OUT_CHANNELS": "model.backbone.out_channels",
    "MODEL.FPT.BRANCH_CHANNELS": "model.backbone.transform.channels",
    "MODEL.FPT.FUSE": "model.backbone.transform.fuse",
    "MODEL.FPT.MIN_STRIDE": "model.backbone.transform.min_stride",
    "MODEL.FPT.QK_NORM": "qk_norm of the branches in model.backbone.transform",
    "MODEL.TRUNK": "model.backbone.bottom_up",
}
# What lazy configs do not have.
_LEFT_OUT = (", SOLVER.CLIP_GRADIENTS.ENABLED True", "; DATASETS.CHECK False skips this check")
# Not within quotes, where a user's own words are.
_YAML = re.compile(
    r"(?<![\w.'\"])({})(?![\w.]*\w)( (?=(?:True|False|\d+)(?![\w/.])))?".format(
        "|".join(re.escape(words) for words in sorted(_WORDS, key=len, reverse=True))
    )
)


def lazily(sentence: str) -> str:
    """A sentence about a YAML config in the words of a lazy one: ``train.max_iter=2`` for ``SOLVER.MAX_ITER 2``."""
    for words in _LEFT_OUT:
        sentence = sentence.replace(words, "")
    return _YAML.sub(lambda found: _WORDS[found[1]] + ("=" if found[2] else ""), sentence)


@contextmanager
def in_lazy_words() -> Iterator[None]:
    """Let each UserError speak of the keys of a lazy config. As ``@in_lazy_words()`` it decorates a function."""
    try:
        yield
    except UserError as error:
        error.args = (lazily(str(error)), *error.args[1:])
        raise
