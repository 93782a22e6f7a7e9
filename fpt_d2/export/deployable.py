"""A model with all that Detectron2's ``DefaultPredictor`` does around it, as one module from tensor to tensors.

Shape legend: H x W image, h x w as the model sees it, N objects, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, RetinaNet
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from .masks import paste_masks
from .resizing import Length, image_size, resize, scaled_size


class Deployable(nn.Module):
    """From a raw image to a model's input: the parts that detection and segmentation share."""

    outputs: tuple[str, ...]
    model: Any

    def __init__(self, model: Any, *, short_side: int, max_size: int) -> None:
        """
        Args:
            model: in eval mode.
            short_side, max_size: ``INPUT.MIN_SIZE_TEST`` and ``INPUT.MAX_SIZE_TEST``.
        """
        super().__init__()
        self.model = model
        self.short_side, self.max_size = short_side, max_size
        self.divisor: int = max(self.model.backbone.size_divisibility, 1)

    def preprocess(self, image: Tensor) -> tuple[ImageList, tuple[Tensor, Tensor]]:
        """Scale, normalise, pad.

        Args:
            image: (H, W, 3) uint8.

        Returns:
            One image (1, 3, h', w') with its size (h, w), and (H, W).
        """
        image = image.to(self.model.pixel_mean.device).permute(2, 0, 1)
        size = image_size(image)
        h, w = scaled_size(*size, self.short_side, self.max_size)
        rows, columns = (self._padded(side) for side in (h, w))
        x = resize(image, h, w, rows, columns).to(self.model.pixel_mean.dtype)
        x = (x - self.model.pixel_mean) / self.model.pixel_std
        is_image = (torch.arange(rows, device=x.device) < h).unsqueeze(1) & (torch.arange(columns, device=x.device) < w)
        return ImageList((x * is_image).unsqueeze(0), [(h, w)]), size

    def _padded(self, side: Tensor) -> Length:
        """A height or width with the padding. Not -(-side // divisor): ONNX rounds towards 0."""
        count = (side + self.divisor - 1) // self.divisor
        if not torch.compiler.is_compiling():
            return count * self.divisor
        number = count.item()  # of torch.export, which wants to know that maps are larger than one position
        torch._check(number >= 2)
        torch._check(number < 2**12)
        return number * self.divisor


class DeployableDetector(Deployable):
    """R-CNNs and RetinaNet."""

    def __init__(self, model: Any, *, short_side: int, max_size: int) -> None:
        super().__init__(model, short_side=short_side, max_size=max_size)
        has_masks = isinstance(model, GeneralizedRCNN) and model.roi_heads.mask_on
        self.outputs = ("boxes", "scores", "classes", *(["masks"] if has_masks else []))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (H, W, 3) uint8, channels in the order of ``INPUT.FORMAT``.

        Returns:
            Boxes (N, 4) float32, x0, y0, x1, y1 in pixels of the image; scores (N,) float32, falling; classes (N,)
            int64; and of a model with masks (N, H, W) bool.
        """
        images, (height, width) = self.preprocess(image)
        found = self._find(images)
        (h, w), boxes = images.image_sizes[0], found.pred_boxes.tensor
        scale = torch.stack((width / w, height / h)).to(boxes.dtype)
        boxes = (boxes * scale.repeat(2)).clamp(min=0)
        boxes = torch.minimum(boxes, torch.stack((width, height)).to(boxes.dtype).repeat(2))
        kept = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1).nonzero().squeeze(1)
        boxes = boxes[kept]
        outputs = boxes, found.scores[kept], found.pred_classes[kept]
        if "masks" not in self.outputs:
            return outputs
        return *outputs, paste_masks(found.pred_masks[kept, 0], boxes, height, width)

    def _find(self, images: ImageList) -> Instances:
        """The objects in the image as the model sees it."""
        features = self.model.backbone(images.tensor)
        if isinstance(self.model, RetinaNet):
            features = [features[name] for name in self.model.head_in_features]
            return self.model.forward_inference(images, features, self.model.head(features))[0]
        proposals, _ = self.model.proposal_generator(images, features, None)
        return self.model.roi_heads(images, features, proposals, None)[0][0]


class DeployableSegmentor(Deployable):
    """Semantic segmentation."""

    outputs = ("sem_seg",)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            image: (H, W, 3) uint8, channels in the order of ``INPUT.FORMAT``.

        Returns:
            Logits (C, H, W) float32.
        """
        images, (height, width) = self.preprocess(image)
        logits, _ = self.model.sem_seg_head(self.model.backbone(images.tensor), None)
        return (sem_seg_postprocess(logits[0], images.image_sizes[0], height, width),)


def deployable(cfg: CfgNode, model: Any) -> Deployable:
    """The module of a model that :func:`.support.check_whole` has found nothing against; its weights get no gradients
    any more, or what a file returns would have some."""
    is_detector = isinstance(model, (GeneralizedRCNN, RetinaNet))
    module = (DeployableDetector if is_detector else DeployableSegmentor)(
        model, short_side=cfg.INPUT.MIN_SIZE_TEST, max_size=cfg.INPUT.MAX_SIZE_TEST
    )
    return module.eval().requires_grad_(False)
