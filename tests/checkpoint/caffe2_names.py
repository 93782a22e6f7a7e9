"""Detectron2's names and values as Caffe2's Detectron wrote them: the way back of what Detectron2 does on loading."""

import re

import numpy as np
import torch
from torch import Tensor

_LAST_BLOCK = {18: (1, 1, 1, 1), 50: (2, 3, 5, 2)}
_HEADS = [
    ("proposal_generator.rpn_head.conv.", "conv_rpn_fpn2_"),
    ("proposal_generator.rpn_head.objectness_logits.", "rpn_cls_logits_fpn2_"),
    ("proposal_generator.rpn_head.anchor_deltas.", "rpn_bbox_pred_fpn2_"),
    ("roi_heads.box_head.fc1.", "fc6_"),
    ("roi_heads.box_head.fc2.", "fc7_"),
    ("roi_heads.box_predictor.cls_score.", "cls_score_"),
    ("roi_heads.box_predictor.bbox_pred.", "bbox_pred_"),
    ("roi_heads.mask_head.mask_fcn", "_[mask]_fcn"),
    ("roi_heads.mask_head.deconv.", "conv5_mask_"),
    ("roi_heads.mask_head.predictor.", "mask_fcn_logits_"),
]
_TRUNK = [
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "res_conv1_bn_"),
    (r"^backbone\.bottom_up\.stem\.", ""),
    (r"^backbone\.bottom_up\.", ""),
    (r"\.norm\.", "_bn_"),
    (r"\.shortcut", "_branch1"),
    *((rf"\.conv{i}", f"_branch2{letter}") for i, letter in ((1, "a"), (2, "b"), (3, "c"))),
]


def to_caffe2(weights: dict[str, Tensor], depth: int) -> dict[str, np.ndarray]:
    """A Mask R-CNN with a frozen trunk, whose normalisation has scale and shift only."""
    blobs = {}
    for name, weight in weights.items():
        if re.search(r"running_(mean|var)$", name) or "cell_anchors" in name:
            continue
        scale = "s" if ".norm." in name else "w"
        short = re.sub("bias$", "b", re.sub("weight$", scale, name))
        blobs[_rename(short, _LAST_BLOCK[depth])] = _with_background(name, weight).numpy()
    return blobs


def _rename(name: str, last_block: tuple[int, ...]) -> str:
    for old, new in _HEADS:
        if name.startswith(old):
            return re.sub(r"\.", "_", new + name[len(old) :])
    if fpn := re.match(r"backbone\.fpn_(lateral|output)(\d)\.(\w)", name):
        kind, stage = fpn[1], int(fpn[2])
        place = f"res{stage}_{last_block[stage - 2]}_sum"
        lateral = "_lateral" if stage < 5 else ""
        return f"fpn_inner_{place}{lateral}_{fpn[3]}" if kind == "lateral" else f"fpn_{place}_{fpn[3]}"
    for old, new in _TRUNK:
        name = re.sub(old, new, name)
    return name.replace(".", "_")


def _with_background(name: str, weight: Tensor) -> Tensor:
    """Caffe2 has the background first, and predicts a box and a mask for it too."""
    if ".cls_score." in name:
        return torch.cat((weight[-1:], weight[:-1]))
    if ".bbox_pred." in name:
        return torch.cat((weight[:4] * 0 + 7, weight))
    if ".predictor." in name:
        return torch.cat((weight[:1] * 0 + 7, weight))
    return weight
