"""A head for semantic segmentation over levels of one size, such as UFP's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec
from torch import Tensor, nn

from ...core.arguments import check_argument
from .context import conv_norm_relu
from .losses import check_labels, sem_seg_loss

# Before a classifier; PSPNet's and OCNet's.
DROPOUT = 0.1


class PyramidSegHead(nn.Module):
    """The concatenated levels through a context module and a classifier; a second classifier for an auxiliary loss.

    It has the interface of Detectron2's heads for semantic segmentation: ``head(features, targets)``.
    """

    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        context: nn.Module,
        channels: int,
        *,
        num_classes: int,
        dropout: float = DROPOUT,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        loss_top_k: float = 1.0,
        aux: tuple[str, nn.Module] | None = None,
        aux_loss_weight: float = 0.4,
    ) -> None:
        """
        Args:
            input_shape: of the levels, which are of one stride.
            context: from their concatenation (B, sum of channels, H, W) to (B, ``channels``, H, W).
            num_classes: K.
            dropout: probability to drop a channel before the classifier.
            ignore_value: label of pixels without loss.
            loss_weight: of all losses.
            loss_top_k: see :func:`.losses.sem_seg_loss`.
            aux: name of a feature, and a classifier from it to K channels; used in training only. None: no such loss.
            aux_loss_weight: of its loss, times ``loss_weight``.

        Raises:
            ValueError: no levels, or levels of more than one stride.
        """
        super().__init__()
        strides = {name: shape.stride for name, shape in input_shape.items()}
        one_size = len(set(strides.values())) == 1
        allowed = "levels of one stride, as UFP's are; Detectron2's SemSegFPNHead takes those of several"
        check_argument("input_shape", strides, one_size, allowed)
        self.in_features, self.stride = tuple(strides), next(iter(strides.values()))
        self.num_classes, self.ignore_value = num_classes, ignore_value
        self.loss_weight, self.loss_top_k, self.aux_loss_weight = loss_weight, loss_top_k, aux_loss_weight
        self.context = context
        self.classifier = nn.Sequential(nn.Dropout2d(dropout), _predictor(channels, num_classes))
        self.aux_feature: str = aux[0] if aux else ""
        self.aux_classifier: nn.Module | None = aux[1] if aux else None

    def forward(
        self, features: Mapping[str, Tensor], targets: Tensor | None = None
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """
        Args:
            features: the levels (B, C_n, H, W) by name, and the auxiliary feature.
            targets: (B, H * stride, W * stride) labels; needed in training.

        Returns:
            In training None and the losses, in inference the logits (B, K, H * stride, W * stride) and no losses.

        Raises:
            ValueError: targets of another size, or with labels that are no class.
        """
        logits = self.classifier(self.context(torch.cat([features[f] for f in self.in_features], dim=1)))
        size = (logits.shape[-2] * self.stride, logits.shape[-1] * self.stride)
        if not self.training:
            return _resize(logits, size), {}
        return None, self.losses(logits, features, self._check_targets(targets, size))

    def losses(self, logits: Tensor, features: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """The weighted losses, ``loss_sem_seg`` and ``loss_sem_seg_aux``."""
        losses = {"loss_sem_seg": self._loss(logits, targets) * self.loss_weight}
        if self.aux_classifier is not None:
            aux = self._loss(self.aux_classifier(features[self.aux_feature]), targets)
            losses["loss_sem_seg_aux"] = aux * self.loss_weight * self.aux_loss_weight
        return losses

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = _resize(logits, targets.shape[-2:])
        return sem_seg_loss(logits, targets, ignore_value=self.ignore_value, top_k=self.loss_top_k)

    def _check_targets(self, targets: Tensor | None, size: tuple[int, int]) -> Tensor:
        if targets is None:
            raise ValueError("training of semantic segmentation needs a 'sem_seg' mask for every image")
        if targets.shape[-2:] != size:
            raise ValueError(
                f"the semantic masks of a batch are {tuple(targets.shape[-2:])} pixels, its images {size} (both "
                "padded): every mask must have the size of its image"
            )
        check_labels(targets, self.num_classes, self.ignore_value)
        return targets


def aux_classifier(in_channels: int, channels: int, num_classes: int, *, norm: str = "") -> nn.Module:
    """A 3x3 convolution and a classifier, for the auxiliary loss (PSPNet)."""
    return nn.Sequential(
        conv_norm_relu(in_channels, channels, 3, norm), nn.Dropout2d(DROPOUT), _predictor(channels, num_classes)
    )


def _predictor(channels: int, num_classes: int) -> Conv2d:
    conv = Conv2d(channels, num_classes, 1)
    # As Detectron2's classifiers start: every class about equally likely.
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)
