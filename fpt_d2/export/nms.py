"""Non-maximum suppression within each class by one call, as a recorded graph needs it.

torchvision shifts the boxes of each class to a place of its own, or, of many boxes, goes through the classes one by
one, which no graph can. Its places lie in one line and begin at 0: boxes with negative coordinates, which RetinaNet has
before it clips them, reach into the place of another class, and far along the line float32 is coarse. Here the places
lie in a square and are as large as the boxes need.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float, *, side: int = 16) -> Tensor:
    """``torchvision.ops.batched_nms``.

    Args:
        boxes: (N, 4). scores: (N,). classes: (N,) int64.
        iou_threshold: boxes that overlap a better one of their class by more are dropped.
        side: of the square of places; more classes than it has make it a rectangle.

    Returns:
        Indices of those that are kept, the best first.
    """
    with_zero = torch.cat((boxes.flatten(), boxes.new_zeros(1)))  # there may be no boxes
    low = with_zero.amin()
    place = with_zero.amax() - low + 1
    column, row = (classes % side).to(boxes.dtype), torch.div(classes, side, rounding_mode="floor").to(boxes.dtype)
    shift = torch.stack((column, row, column, row), dim=1) * place
    # torch.export takes it that two boxes or more are left: two are added, aside of all others and worse.
    aside = torch.tensor([[-4.0, -4.0, -3.0, -3.0], [-2.0, -2.0, -1.0, -1.0]], device=boxes.device, dtype=boxes.dtype)
    worst = torch.full_like(aside[:, 0], torch.finfo(scores.dtype).min, dtype=scores.dtype)
    kept: Tensor = nms(torch.cat((boxes + shift, aside + low)), torch.cat((scores, worst)), iou_threshold)
    return kept[:-2]
