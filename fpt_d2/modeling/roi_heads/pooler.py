"""Adaptive feature pooling (Liu et al., Path Aggregation Network, CVPR 2018): every RoI from every level."""

from typing import Callable, List

import torch
from detectron2.modeling.poolers import ROIPooler, convert_boxes_to_pooler_format
from detectron2.structures import Boxes
from torch import Tensor, nn


class AdaptivePooler(ROIPooler):
    """Detectron2's pooler, from all levels instead of the one that a box's size assigns it to. Same arguments."""

    def forward(self, x: List[Tensor], box_lists: List[Boxes]) -> Tensor:
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
        return fused
