"""Inference of semantic segmentation in windows and with test-time augmentation: wrappers with a model's interface.

Shape legend: K classes; H, W the scaled image that a model is given; h, w a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import DatasetMapperTTA
from detectron2.modeling.postprocessing import sem_seg_postprocess
from fvcore.transforms import HFlipTransform
from torch import Tensor, nn

from ...core.arguments import check_argument

Inputs = list[dict[str, Any]]


class SlidingWindow(nn.Module):
    """A model for semantic segmentation that sees an image in overlapping windows of one size.

    Logits are averaged where windows overlap. An image no larger than the window is given to the model as it is.
    """

    def __init__(self, model: nn.Module, *, size: tuple[int, int], stride: tuple[int, int]) -> None:
        """
        Args:
            model: Detectron2's SemanticSegmentor, or what has its interface.
            size: height and width of the window, in pixels of the scaled image.
            stride: from one window to the next, down and to the right; at most ``size``.

        Raises:
            ValueError: a stride that leaves gaps.
        """
        super().__init__()
        check_argument("size", tuple(size), len(size) == 2 and min(size) > 0, "two positive numbers")
        fits = len(stride) == 2 and all(0 < step <= side for step, side in zip(stride, size))
        check_argument("stride", tuple(stride), fits, f"two positive numbers, at most the size {tuple(size)}")
        self.model, self.size, self.stride = model, tuple(size), tuple(stride)
        self.training = model.training

    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """As SemanticSegmentor in inference: for each image ``{"sem_seg": (K, height, width) logits}``."""
        return [{"sem_seg": self._predict(inputs)} for inputs in batched_inputs]

    def _predict(self, inputs: dict[str, Any]) -> Tensor:
        image = inputs["image"]
        size = image.shape[-2:]
        height, width = inputs.get("height", size[0]), inputs.get("width", size[1])
        tops, lefts = (_starts(*sides) for sides in zip(size, self.size, self.stride))
        if len(tops) == len(lefts) == 1:
            logits: Tensor = self.model([{"image": image, "height": height, "width": width}])[0]["sem_seg"]
            return logits
        total, count = None, image.new_zeros(size, dtype=torch.float32)
        for top in tops:
            for left in lefts:
                window = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
                # Without "height" and "width" the result has the size of the input.
                logits = self.model([{"image": image[window]}])[0]["sem_seg"]
                if total is None:
                    total = logits.new_zeros((logits.shape[0], *size))
                total[window] += logits
                count[window] += 1
        assert total is not None  # an image has one window at least
        resized: Tensor = sem_seg_postprocess(total / count.to(total.device), size, height, width)
        return resized


class SemanticSegmentorWithTTA(nn.Module):
    """A model for semantic segmentation over scaled and mirrored copies of each image, whose probabilities it averages.

    It is to SemanticSegmentor what Detectron2's GeneralizedRCNNWithTTA is to GeneralizedRCNN.
    """

    def __init__(
        self, model: nn.Module, tta_mapper: DatasetMapperTTA, *, flipped_classes: Sequence[int] | None = None
    ) -> None:
        """
        Args:
            model: Detectron2's SemanticSegmentor, or what has its interface.
            tta_mapper: makes the copies, from images that are best not scaled before.
            flipped_classes: for each class what it is in the mirror, where a left arm becomes a right one; None where
                classes stay.
        """
        super().__init__()
        self.model, self.tta_mapper, self.flipped_classes = model, tta_mapper, flipped_classes
        self.training = model.training

    def forward(self, batched_inputs: Inputs) -> list[dict[str, Tensor]]:
        """As SemanticSegmentor in inference, with probabilities: ``{"sem_seg": (K, height, width)}`` for each image."""
        return [{"sem_seg": self._predict(inputs)} for inputs in batched_inputs]

    def _predict(self, inputs: dict[str, Any]) -> Tensor:
        image = inputs["image"]
        size = {"height": inputs.get("height", image.shape[-2]), "width": inputs.get("width", image.shape[-1])}
        # Detectron2's predictor gives float32, which would be scaled in another way than its data loader's uint8.
        image = image.round().clamp(0, 255).to(torch.uint8).cpu()
        copies = self.tta_mapper({"image": image, **size})
        total = self._probabilities(copies[0], size)
        for copy in copies[1:]:  # one at a time: those of a large image fill the memory
            total += self._probabilities(copy, size)
        return total / len(copies)

    def _probabilities(self, copy: dict[str, Any], size: dict[str, int]) -> Tensor:
        """The probabilities of one copy, in the place of the image itself."""
        logits = self.model([{"image": copy["image"], **size}])[0]["sem_seg"]
        probabilities: Tensor = logits.softmax(dim=0)
        if not any(isinstance(transform, HFlipTransform) for transform in copy["transforms"].transforms):
            return probabilities
        if self.flipped_classes is not None:
            probabilities = probabilities[list(self.flipped_classes)]
        return probabilities.flip(-1)


def _starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows start along one side of an image, the last one at its end."""
    last = max(0, side - window)
    return [*range(0, last, stride), last]
