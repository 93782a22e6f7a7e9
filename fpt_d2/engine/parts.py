"""What a config has built besides the model, built once before anything long begins: the dry run of every training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.modeling import DatasetMapperTTA
from torch import nn

from ..data import build_train_mapper
from .building import built

if TYPE_CHECKING:
    from .trainer import Trainer

# Height and width of the image that the augmentations are tried on.
_IMAGE_SIZE = (48, 64)
_NUM_IMAGES = 1000


def check_parts(
    cfg: CfgNode, model: nn.Module | None, trainer: type[Trainer], config_file: str, *, is_eval: bool
) -> None:
    """Build all but the model, without the data; try the augmentations on a blank image.

    Args:
        cfg: its values have been checked.
        model: of ``cfg``, without values; None if it cannot be had so.
        trainer: whose methods build the optimizer and the schedule.
        config_file: see :func:`built`.
        is_eval: only what an evaluation needs.

    Raises:
        ConfigError: something of Detectron2's or torch's refuses a value.
    """
    if not is_eval:
        if model is not None:
            optimizer = built("The optimizer", lambda c: trainer.build_optimizer(c, model), cfg, config_file)
            built("The learning rate's schedule", lambda c: trainer.build_lr_scheduler(c, optimizer), cfg, config_file)
        if is_ours(trainer, "build_train_loader"):
            built("What reads the training data", _try_train_loader, cfg, config_file)
    if cfg.DATASETS.TEST:
        built("What reads the test data", _try_test_mappers, cfg, config_file)


def is_ours(trainer: type[Trainer], method: str) -> bool:
    """Whether a trainer has not overridden a method: what its own one does with a config only it knows."""
    return str(getattr(trainer, method).__module__).startswith("fpt_d2.")


def blank_records() -> list[dict[str, Any]]:
    """The records of a data set of images that are not there."""
    height, width = _IMAGE_SIZE
    return [{"height": height, "width": width, "image_id": 0, "annotations": [{"category_id": 0}]}] * _NUM_IMAGES


def _try_train_loader(cfg: CfgNode) -> None:
    mapper = build_train_mapper(cfg)
    build_detection_train_loader(cfg, mapper=mapper, dataset=blank_records())
    try_augmentations(mapper.augmentations, len(cfg.MODEL.PIXEL_MEAN))


def _try_test_mappers(cfg: CfgNode) -> None:
    try_augmentations(DatasetMapper(cfg, is_train=False).augmentations, len(cfg.MODEL.PIXEL_MEAN))
    if cfg.TEST.AUG.ENABLED:
        height, width = _IMAGE_SIZE
        image = torch.zeros(len(cfg.MODEL.PIXEL_MEAN), height, width, dtype=torch.uint8)
        DatasetMapperTTA(cfg)({"image": image, "height": height, "width": width})


def try_augmentations(augmentations: T.AugmentationList, channels: int) -> None:
    """Augment a blank image of so many channels, and its labels."""
    labels = np.zeros(_IMAGE_SIZE, np.uint8)
    augmentations(T.AugInput(np.zeros((*_IMAGE_SIZE, channels), np.uint8), sem_seg=labels))
