"""Augmentations and mapper of semantic segmentation."""

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
from detectron2.data.detection_utils import check_image_size, read_image
from fvcore.transforms.transform import HFlipTransform, Transform

from ..config import SEMANTIC_SEGMENTATION
from ..errors import DatasetError
from .labels import flipped_classes, read_labels

logger = logging.getLogger(__name__)


class LabelFlipTransform(HFlipTransform):
    """A horizontal flip that makes a left arm's label a right arm's."""

    def __init__(self, width: int, flipped: np.ndarray) -> None:
        """
        Args:
            width: of the image.
            flipped: (256,) uint8, what each label becomes.
        """
        super().__init__(width)
        self.flipped = flipped

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.flipped[super().apply_segmentation(segmentation)]


class RandomLabelFlip(T.RandomFlip):
    """Detectron2's RandomFlip for data sets in which a flip changes classes."""

    def __init__(self, flipped: Sequence[int], *, horizontal: bool = True, vertical: bool = False) -> None:
        """
        Args:
            flipped: see :func:`.labels.flipped_classes`.
            horizontal, vertical: as in RandomFlip.
        """
        super().__init__(horizontal=horizontal, vertical=vertical)
        self.flipped = list(flipped)
        self._table = np.arange(256, dtype=np.uint8)
        self._table[: len(flipped)] = flipped

    def get_transform(self, image: np.ndarray) -> Transform:
        transform = super().get_transform(image)
        if isinstance(transform, HFlipTransform):  # one upside down leaves left and right
            return LabelFlipTransform(transform.width, self._table)
        return transform


def build_sem_seg_augmentation(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """Scale, crop, flip and color, each by the keys of ``INPUT``, for training.

    Crops smaller than their batch are padded by the model: images with their mean, masks with ``IGNORE_VALUE``.
    """
    inputs, crop = cfg.INPUT, cfg.INPUT.CROP
    augmentations: list[T.Augmentation | T.Transform] = [
        T.ResizeShortestEdge(inputs.MIN_SIZE_TRAIN, inputs.MAX_SIZE_TRAIN, inputs.MIN_SIZE_TRAIN_SAMPLING)
    ]
    if crop.ENABLED:
        augmentations.append(
            T.RandomCrop_CategoryAreaConstraint(
                crop.TYPE, crop.SIZE, crop.SINGLE_CATEGORY_MAX_AREA, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
            )
        )
    if inputs.RANDOM_FLIP != "none":
        direction = {"horizontal": inputs.RANDOM_FLIP == "horizontal", "vertical": inputs.RANDOM_FLIP == "vertical"}
        flipped = flipped_classes(cfg.DATASETS.TRAIN)
        augmentations.append(RandomLabelFlip(flipped, **direction) if flipped else T.RandomFlip(**direction))
    if inputs.COLOR_AUG_SSD:
        # Here, because importing that project registers its heads, which a user's own copy of it would do too.
        from detectron2.projects.point_rend import ColorAugSSDTransform

        augmentations.append(ColorAugSSDTransform(img_format=inputs.FORMAT))
    return augmentations


class SemSegMapper:
    """From a record with ``file_name`` and ``sem_seg_file_name`` to the input of Detectron2's SemanticSegmentor.

    Unlike Detectron2's DatasetMapper it reads the indices of label images with a palette, not their brightness.
    """

    @configurable
    def __init__(self, *, augmentations: Sequence[T.Augmentation | T.Transform], image_format: str) -> None:
        """
        Args:
            augmentations: applied to image and mask alike.
            image_format: of Detectron2's ``read_image``, e.g. ``"RGB"``.
        """
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        logger.info("Augmentations of images and masks: %s", augmentations)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, augmentations: Sequence[T.Augmentation | T.Transform] | None = None
    ) -> dict[str, Any]:
        """``augmentations`` stand in for those of training."""
        if augmentations is None:
            augmentations = build_sem_seg_augmentation(cfg)
        return {"augmentations": augmentations, "image_format": cfg.INPUT.FORMAT}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """
        Returns:
            The record with ``image`` (3, H, W) uint8 and ``sem_seg`` (H, W) int64; its ``height`` and ``width`` are
            those of the file.

        Raises:
            DatasetError: the mask cannot be read, or has another size than the image.
        """
        record = copy.deepcopy(dataset_dict)
        image = read_image(record["file_name"], format=self.image_format)
        check_image_size(record, image)
        path = record.pop("sem_seg_file_name")
        labels = read_labels(path)
        if labels.shape != image.shape[:2]:
            raise DatasetError(
                f"The mask {path} has {labels.shape} pixels, its image {record['file_name']} {image.shape[:2]}: they "
                "must be of one size"
            )
        inputs = T.AugInput(image, sem_seg=labels)
        self.augmentations(inputs)
        record["image"] = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        record["sem_seg"] = torch.from_numpy(inputs.sem_seg.astype(np.int64))
        return record


def build_train_mapper(cfg: CfgNode) -> SemSegMapper | DatasetMapper:
    """The mapper of ``MODEL.META_ARCHITECTURE``: ours for semantic segmentation, else Detectron2's."""
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        return SemSegMapper(cfg)
    return DatasetMapper(cfg, is_train=True)
