"""Adaptive feature pooling (Liu et al., Path Aggregation Network, CVPR 2018): every RoI from every level."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn

from ...core.arguments import check_argument
from ...errors import ConfigError
from ..keys import arguments_from, check_norm


def check_roi_heads(cfg: CfgNode) -> None:
    """Check what only several keys together tell: whether the heads take the RoI features that they are going to get.

    Raises:
        ConfigError: a box or a mask head for the other kind of pooling, or a value that ours does not allow.
    """
    name, box, mask = cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    pools_all = name in ("AdaptiveROIHeads", "AdaptiveCascadeROIHeads")
    unfit = ("FastRCNNConvFCHead", "MaskRCNNConvUpsampleHead") if pools_all else ("AdaptiveBoxHead", "AdaptiveMaskHead")
    for key, head in (("ROI_BOX_HEAD", box), *([("ROI_MASK_HEAD", mask)] if cfg.MODEL.MASK_ON else [])):
        if head.NAME in unfit:
            raise ConfigError(
                f"MODEL.{key}.NAME is {head.NAME!r}; allowed: one for MODEL.ROI_HEADS.NAME {name!r}; the Adaptive... "
                "heads go with Adaptive(Cascade)ROIHeads alone"
            )
    with arguments_from("MODEL.ROI_BOX_HEAD"):
        check_argument("fc_norm", box.FC_NORM, box.FC_NORM in ("", "GN"), "'' or 'GN'")
        if box.NAME == "AdaptiveBoxHead":
            check_argument("num_fc", box.NUM_FC, box.NUM_CONV + box.NUM_FC > 0, "1 or more where NUM_CONV is 0")
            check_norm(cfg, "ROI_BOX_HEAD.NORM", "ROI_BOX_HEAD.CONV_DIM")
            check_norm(cfg, "ROI_BOX_HEAD.FC_NORM", "ROI_BOX_HEAD.FC_DIM")
    if cfg.MODEL.MASK_ON and mask.NAME == "AdaptiveMaskHead":
        with arguments_from("MODEL.ROI_MASK_HEAD"):
            check_argument("num_conv", mask.NUM_CONV, mask.NUM_CONV > 1, "2 or more")
        check_norm(cfg, "ROI_MASK_HEAD.NORM", "ROI_MASK_HEAD.CONV_DIM", share=2 if mask.FC_FUSION else 1)


class AdaptivePooler(ROIPooler):
    """Detectron2's pooler, from all levels instead of the one that a box's size assigns it to. Same arguments."""

    def forward(self, x: list[Tensor], box_lists: list[Boxes]) -> Tensor:
        """
        Args:
            x: levels (B, C, H_n, W_n), fine to coarse. box_lists: of each image, in its pixels.

        Returns:
            (R, L, C, S, S): R boxes of all images, L levels, S the output size.
        """
        boxes = convert_boxes_to_pooler_format(box_lists)
        return torch.stack([pooler(level, boxes) for pooler, level in zip(self.level_poolers, x)], dim=1)


class LevelFusion(nn.Module):
    """A layer of its own for each level, and the maximum over the levels: the first layer of a head over all."""

    def __init__(self, num_levels: int, make_layer: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(make_layer() for _ in range(num_levels))

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, ...) -> (R, ...).

        Raises:
            ValueError: another number of levels, or one level only (Detectron2's pooler).
        """
        if x.dim() != 5 or x.shape[1] != len(self.layers):
            raise ValueError(
                f"the head got RoI features of shape {tuple(x.shape)}, not (R, {len(self.layers)}, C, S, S): set "
                "MODEL.ROI_HEADS.NAME to 'AdaptiveROIHeads', which pools each RoI from every level"
            )
        fused = self.layers[0](x[:, 0])
        for i, layer in enumerate(self.layers[1:], start=1):
            fused = torch.maximum(fused, layer(x[:, i]))
        return fused  # type: ignore[no-any-return]
