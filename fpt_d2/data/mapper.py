"""From a data set's record to the input of a model: the mappers, and the augmentations of semantic segmentation."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    SizeMismatchError,
    build_augmentation,
    check_image_size,
    transform_proposals,
)
from fvcore.transforms.transform import HFlipTransform

from ..config import SEMANTIC_SEGMENTATION
from ..config_values import CROP_TYPES, FLIPS
from ..errors import ConfigError, DatasetError
from .coco import set_keypoints
from .images import check_scaling, read_image
from .labels import flipped_classes, read_labels

logger = logging.getLogger(__name__)


def check_input_config(cfg: CfgNode) -> None:
    """Check the values of ``INPUT`` by which images of semantic segmentation are augmented.

    Raises ConfigError with each key that has a bad value, the value, and what is allowed.
    """
    inputs, crop = cfg.INPUT, cfg.INPUT.CROP
    size, share = crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA
    is_absolute = crop.TYPE.startswith("absolute")
    fits = all(isinstance(x, int) for x in size) if is_absolute else max(size, default=0) <= 1
    fits = fits and len(size) == 2 and min(size) > 0 and not (crop.TYPE == "absolute_range" and size[0] > size[1])
    # key, value, is it allowed, what is allowed
    rules = [
        ("RANDOM_FLIP", inputs.RANDOM_FLIP, inputs.RANDOM_FLIP in FLIPS, ", ".join(map(repr, FLIPS))),
        ("FORMAT", inputs.FORMAT, inputs.FORMAT in ("RGB", "BGR") or not inputs.COLOR_AUG_SSD, "'RGB', 'BGR'"),
        ("CROP.TYPE", crop.TYPE, crop.TYPE in CROP_TYPES, ", ".join(map(repr, CROP_TYPES))),
        ("CROP.SIZE", size, fits, "two numbers of pixels where TYPE is absolute, else two shares up to 1"),
        ("CROP.SINGLE_CATEGORY_MAX_AREA", share, 0 < share <= 1, "above 0, up to 1 (off)"),
    ]
    bad = [f"INPUT.{key} is {value!r}; allowed: {allowed}" for key, value, fine, allowed in rules if not fine]
    if bad:
        raise ConfigError(". ".join(bad))


def build_sem_seg_augmentation(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """Scale, crop, flip and color for training, each by the keys of ``INPUT``. Raises ConfigError for a wrong value.

    Crops smaller than their batch are padded by the model: images with their mean, masks with ``IGNORE_VALUE``.
    """
    check_input_config(cfg)
    inputs, crop = cfg.INPUT, cfg.INPUT.CROP
    augmentations: list[T.Augmentation | T.Transform] = build_augmentation(cfg, is_train=True)  # scale and flip
    if crop.ENABLED:
        share, ignored = crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        augmentations.insert(1, T.RandomCrop_CategoryAreaConstraint(crop.TYPE, crop.SIZE, share, ignored))
    if inputs.COLOR_AUG_SSD:
        # Here, because importing that project registers its heads, which a user's own copy of it would do too.
        from detectron2.projects.point_rend import ColorAugSSDTransform

        augmentations.append(ColorAugSSDTransform(img_format=inputs.FORMAT))
    return augmentations


class SemSegMapper:
    """From a record with ``file_name`` and ``sem_seg_file_name`` to the input of Detectron2's SemanticSegmentor.

    Unlike Detectron2's DatasetMapper it reads the indices of label images with a palette, not their brightness, and
    makes a left arm a right arm in the mirror.
    """

    @configurable
    def __init__(
        self,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str,
        flipped_classes: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            augmentations: applied to image and mask alike.
            image_format: of Detectron2's ``read_image``, e.g. ``"RGB"``.
            flipped_classes: of each class its index in a flipped image; None where classes stay.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.flipped_labels = np.arange(256, dtype=np.uint8)
        if flipped_classes:
            self.flipped_labels[: len(flipped_classes)] = flipped_classes
        logger.info("Augmentations of images and masks: %s", augmentations)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, augmentations: Sequence[T.Augmentation | T.Transform] | None = None
    ) -> dict[str, Any]:
        """``augmentations`` stand in for those of training."""
        flipped = None
        if augmentations is None:
            augmentations = build_sem_seg_augmentation(cfg)
            flipped = flipped_classes(cfg.DATASETS.TRAIN) if cfg.INPUT.RANDOM_FLIP == "horizontal" else None
        return {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT, "flipped_classes": flipped}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """The record with ``image`` (3, H, W) uint8, ``sem_seg`` (H, W) int64, ``height`` and ``width`` of the file.

        Raises DatasetError if image or mask cannot be read, or are not of one size.
        """
        record = copy.deepcopy(dataset_dict)
        image = _read_image(record, self.image_format, self.augmentations)
        path = record.pop("sem_seg_file_name")
        labels = read_labels(path)
        if labels.shape != image.shape[:2]:
            raise DatasetError(
                f"The mask {path} has {labels.shape} pixels, its image {record['file_name']} {image.shape[:2]}: they "
                "must be of one size"
            )
        inputs = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(inputs).transforms
        labels = inputs.sem_seg
        if any(isinstance(transform, HFlipTransform) for transform in transforms):
            labels = self.flipped_labels[labels]
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        record["sem_seg"] = torch.from_numpy(labels.astype(np.int64))
        return record


class InstanceMapper(DatasetMapper):
    """Detectron2's DatasetMapper, with images read by :func:`.images.read_image` and labels as they are evaluated."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """As Detectron2's. Raises DatasetError if the image cannot be read, or is of another size than its record."""
        record = copy.deepcopy(dataset_dict)
        image = _read_image(record, self.image_format, self.augmentations)
        labels = read_labels(record.pop("sem_seg_file_name")) if "sem_seg_file_name" in record else None
        inputs = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(inputs)
        size = inputs.image.shape[:2]
        record["image"] = torch.as_tensor(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        if labels is not None:
            record["sem_seg"] = torch.as_tensor(inputs.sem_seg.astype("long"))
        if self.proposal_topk is not None:
            transform_proposals(record, size, transforms, proposal_topk=self.proposal_topk)
        if not self.is_train:
            record.pop("annotations", None)
        elif "annotations" in record:
            self._transform_annotations(record, transforms, size)
        return record


def _read_image(record: dict[str, Any], image_format: str, augmentations: T.AugmentationList) -> np.ndarray:
    """The image of a record, whose ``height`` and ``width`` are added where they are missing.

    Raises DatasetError if it cannot be read, is of another size, or is too thin for the augmentations.
    """
    path = record["file_name"]
    image = read_image(path, image_format)
    try:
        check_image_size(record, image)
    except SizeMismatchError as error:
        raise DatasetError(
            f"The image {path} has {image.shape[1]} x {image.shape[0]} pixels, turned as EXIF data may say, not "
            f"{record.get('width')} x {record.get('height')} as its record says: correct the record"
        ) from error
    check_scaling(path, image, augmentations.augs)
    return image


def build_train_mapper(cfg: CfgNode) -> SemSegMapper | InstanceMapper:
    """The mapper of ``MODEL.META_ARCHITECTURE``."""
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        mapper: SemSegMapper | InstanceMapper = SemSegMapper(cfg)
        return mapper
    if cfg.MODEL.KEYPOINT_ON and cfg.DATASETS.CHECK:
        for name in cfg.DATASETS.TRAIN:
            set_keypoints(name)  # by which a flip exchanges left and right
    mapper = InstanceMapper(cfg, is_train=True)
    return mapper
