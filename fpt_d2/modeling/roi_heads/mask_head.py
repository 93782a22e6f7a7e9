"""The mask head over adaptive feature pooling, with fully connected fusion (Liu et al., PANet, CVPR 2018)."""

from __future__ import annotations

from functools import partial
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY, BaseMaskRCNNHead
from torch import Tensor, nn

from ...core.arguments import check_argument
from .box_head import conv_layer
from .pooler import LevelFusion, check_roi_heads


@ROI_MASK_HEAD_REGISTRY.register()
class AdaptiveMaskHead(BaseMaskRCNNHead):
    """
    Detectron2's ``MaskRCNNConvUpsampleHead`` for RoIs that were pooled from every level: the first convolution has
    weights of its own for each level, and the maximum over the levels goes on. A short path from the last convolution
    but one, two convolutions (the second half as wide) and one fully connected layer, predicts what is foreground,
    whatever its class; it is added to the logits of every class. The authors' code has a ReLU behind that layer,
    PANet's paper none: none here.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_levels: int,
        num_classes: int,
        num_conv: int = 4,
        conv_dim: int = 256,
        conv_norm: str = "",
        fc_fusion: bool = True,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of one level's RoI features.
            num_levels: that the RoIs are pooled from.
            num_classes: of the foreground; 1 for class-agnostic masks.
            num_conv: 3x3 convolutions before the upsampling, 2 or more.
            conv_dim: their channels.
            conv_norm: their normalisation, as in Detectron2's ``get_norm``.
            fc_fusion: with the fully connected path.
            kwargs: as in Detectron2's ``BaseMaskRCNNHead``.

        Raises:
            ValueError: fewer than two convolutions.
        """
        super().__init__(**kwargs)
        check_argument("num_conv", num_conv, num_conv > 1, "2 or more, for the path from the last but one")
        self.num_conv = num_conv
        self.mask_fcn1 = LevelFusion(num_levels, partial(conv_layer, input_shape.channels, conv_dim, conv_norm))
        for k in range(2, num_conv + 1):
            self.add_module(f"mask_fcn{k}", conv_layer(conv_dim, conv_dim, conv_norm))
        self.deconv = ConvTranspose2d(conv_dim, conv_dim, kernel_size=2, stride=2)
        self.predictor = Conv2d(conv_dim, num_classes, kernel_size=1)
        weight_init.c2_msra_fill(self.deconv)
        nn.init.normal_(self.predictor.weight, std=0.001)
        nn.init.zeros_(self.predictor.bias)
        self.fc_path = None
        if fc_fusion:
            height, width = input_shape.height, input_shape.width
            fc = nn.Linear(conv_dim // 2 * height * width, 4 * height * width)
            nn.init.normal_(fc.weight, std=0.001)  # as the predictor, whose output it is added to
            nn.init.zeros_(fc.bias)
            self.fc_path = nn.Sequential(
                conv_layer(conv_dim, conv_dim, conv_norm),
                conv_layer(conv_dim, conv_dim // 2, conv_norm),
                nn.Flatten(),
                fc,
                nn.Unflatten(1, (1, 2 * height, 2 * width)),
            )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_roi_heads(cfg)
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "num_classes": 1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "num_conv": head.NUM_CONV,
            "conv_dim": head.CONV_DIM,
            "conv_norm": head.NORM,
            "fc_fusion": head.FC_FUSION,
        }

    def layers(self, x: Tensor) -> Tensor:
        """(R, L, C, S, S) -> logits (R, num_classes, 2 S, 2 S)."""
        for k in range(1, self.num_conv):
            x = getattr(self, f"mask_fcn{k}")(x)
        last = getattr(self, f"mask_fcn{self.num_conv}")(x)
        logits = self.predictor(nn.functional.relu(self.deconv(last)))
        return logits if self.fc_path is None else logits + self.fc_path(x)  # type: ignore[no-any-return]
