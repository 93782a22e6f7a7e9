"""Detectron2's inference for recorded graphs: what it decides by values that torch.export does not know.

Detectron2 asks whether a box is finite, how many boxes there are, and the like, and goes on in Python.
``torch.jit.trace`` takes the answer of the example; ``torch.export`` refuses. The functions here compute the same of
one image without asking; values that are not finite are taken for those of no object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torchvision
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.modeling import poolers
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads import fast_rcnn, mask_head
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .nms import nms_by_class

Size = tuple[Any, Any]


@contextmanager
def recordable(*, exported: bool) -> Iterator[None]:
    """Detectron2 as a graph can be recorded of it.

    Args:
        exported: by ``torch.export``; otherwise by ``torch.jit.trace``, for which Detectron2 has most of what it needs.
    """
    with ExitStack() as stack:
        stack.enter_context(patch_builtin_len([Instances.__module__]))
        stack.enter_context(mock.patch.object(torchvision.ops.boxes, "batched_nms", nms_by_class))
        for owner, name, value in _REPLACED if exported else ():
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def _boxes(self: Boxes, tensor: Tensor) -> None:
    self.tensor = tensor.float()  # of no boxes too it is (0, 4) here


def _clip(self: Boxes, box_size: Size) -> None:
    self.tensor = _clipped(self.tensor, box_size)


def _clipped(boxes: Tensor, size: Size) -> Tensor:
    height, width = size
    limits = torch.stack((width, height, width, height)).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def _best_proposals(
    proposals: Sequence[Tensor],
    pred_objectness_logits: Sequence[Tensor],
    image_sizes: Sequence[Size],
    nms_thresh: float,
    pre_nms_topk: int,
    post_nms_topk: int,
    min_box_size: float,
    training: bool,
) -> list[Instances]:
    """``find_top_rpn_proposals`` of one image."""
    found = []
    for level, (boxes, logits) in enumerate(zip(proposals, pred_objectness_logits)):
        scores, best = logits[0].topk(torch.sym_min(logits.shape[1], pre_nms_topk))
        found.append((boxes[0][best], scores, torch.full_like(best, level)))
    boxes, scores, levels = (torch.cat(parts) for parts in zip(*found))
    boxes = _clipped(boxes, image_sizes[0])
    kept = ((boxes[:, 2:] - boxes[:, :2]) > min_box_size).all(1) & scores.isfinite()
    kept = kept.nonzero().squeeze(1)
    boxes, scores, levels = boxes[kept], scores[kept], levels[kept]
    kept = nms_by_class(boxes, scores, levels, nms_thresh)[:post_nms_topk]
    result = Instances(image_sizes[0])
    result.proposal_boxes, result.objectness_logits = Boxes(boxes[kept]), scores[kept]
    return [result]


def _detections(
    boxes: Tensor, scores: Tensor, image_shape: Size, score_thresh: float, nms_thresh: float, topk_per_image: int
) -> tuple[Instances, Tensor]:
    """``fast_rcnn_inference_single_image``."""
    scores = scores[:, :-1]
    num_regressed = boxes.shape[1] // 4
    boxes = _clipped(boxes.reshape(-1, 4), image_shape).view(-1, num_regressed, 4)
    box, label = (scores > score_thresh).nonzero().unbind(1)
    boxes = boxes[box, label if num_regressed > 1 else torch.zeros_like(label)]
    scores = scores[box, label]
    kept = nms_by_class(boxes, scores, label, nms_thresh)
    if topk_per_image >= 0:
        kept = kept[:topk_per_image]
    result = Instances(image_shape)
    result.pred_boxes, result.scores, result.pred_classes = Boxes(boxes[kept]), scores[kept], label[kept]
    return result, box[kept]


def _pool(self: poolers.ROIPooler, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
    """``ROIPooler.forward`` of one image."""
    boxes = box_lists[0].tensor
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), dim=1)
    if len(self.level_poolers) == 1:
        return self.level_poolers[0](x[0], rois)  # type: ignore[no-any-return]
    sizes = self.min_level, self.max_level, self.canonical_box_size, self.canonical_level
    levels = poolers.assign_boxes_to_levels(box_lists, *sizes)
    output = x[0].new_zeros(boxes.shape[0], x[0].shape[1], *self.output_size)
    for level, pooler in enumerate(self.level_poolers):
        on_level = (levels == level).nonzero().squeeze(1)
        output = output.index_put((on_level,), pooler(x[level], rois[on_level]))
    return output


def _masks_of_classes(pred_mask_logits: Tensor, pred_instances: list[Instances]) -> None:
    """``mask_rcnn_inference`` of one image."""
    classes = pred_instances[0].pred_classes
    if pred_mask_logits.shape[1] == 1:
        classes = torch.zeros_like(classes)
    logits = pred_mask_logits[torch.arange(classes.shape[0], device=classes.device), classes]
    pred_instances[0].pred_masks = logits.unsqueeze(1).sigmoid()


def _decode_level(
    self: DenseDetector,
    anchors: Boxes,
    pred_scores: Tensor,
    pred_deltas: Tensor,
    score_thresh: float,
    topk_candidates: int,
    image_size: Size,
) -> Instances:
    """``DenseDetector._decode_per_level_predictions``."""
    place, label = (pred_scores > score_thresh).nonzero().unbind(1)
    scores = pred_scores[place, label]
    best = scores.argsort(descending=True, stable=True)[:topk_candidates]
    place, label = place[best], label[best]
    boxes = self.box2box_transform.apply_deltas(pred_deltas[place], anchors.tensor[place])
    return Instances(image_size, pred_boxes=Boxes(boxes), scores=scores[best], pred_classes=label)


_REPLACED = (
    (Boxes, "__init__", _boxes),
    (Boxes, "clip", _clip),
    (rpn, "find_top_rpn_proposals", _best_proposals),
    (fast_rcnn, "fast_rcnn_inference_single_image", _detections),
    (poolers.ROIPooler, "forward", _pool),
    (mask_head, "mask_rcnn_inference", _masks_of_classes),
    (DenseDetector, "_decode_per_level_predictions", _decode_level),
)
