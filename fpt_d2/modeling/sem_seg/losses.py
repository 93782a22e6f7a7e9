"""The loss of semantic segmentation: cross entropy over labelled pixels, all or the hardest of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def check_labels(labels: Tensor, num_classes: int, ignore_value: int) -> None:
    """Check that every label is a class or to be ignored.

    Raises:
        ValueError: naming a label that is neither.
    """
    bad = labels[((labels < 0) | (labels >= num_classes)) & (labels != ignore_value)]
    if bad.numel() > 0:
        raise ValueError(
            f"a semantic mask has the label {int(bad[0])}; allowed: 0 to {num_classes - 1} "
            f"(MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}) and {ignore_value} (MODEL.SEM_SEG_HEAD.IGNORE_VALUE). "
            "Correct the masks, or these keys"
        )


def sem_seg_loss(logits: Tensor, labels: Tensor, *, ignore_value: int, top_k: float = 1.0) -> Tensor:
    """Mean cross entropy over the hardest share of the labelled pixels of a batch.

    With ``top_k`` below 1 it is the bootstrapped loss, or hard example mining (OHEM). Unlike Detectron2's
    ``DeepLabCE`` the share is of the labelled pixels, so that padding and unlabelled areas do not weaken the loss.

    Args:
        logits: (B, K, H, W). labels: (B, H, W), classes or ``ignore_value``.
        top_k: in (0, 1]; 1 takes every pixel.

    Returns:
        A scalar in float32 or wider; 0 where no pixel is labelled.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_value, reduction="none").flatten()
    count = max(1, math.ceil(top_k * int((labels != ignore_value).sum())))
    if top_k < 1:
        losses = losses.topk(count).values  # an ignored pixel has loss 0, and none has less
    return losses.sum() / count
