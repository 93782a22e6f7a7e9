"""Box heads over adaptive feature pooling: the authors' 4conv1fc and 2fc, with group normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_BOX_HEAD_REGISTRY
from torch import Tensor, nn

from ...core.arguments import check_argument
from .pooler import LevelFusion, check_roi_heads


@ROI_BOX_HEAD_REGISTRY.register()
class AdaptiveBoxHead(nn.Sequential):
    """
    Detectron2's ``FastRCNNConvFCHead`` for RoIs that were pooled from every level: the first layer, convolution or
    fully connected, has weights of its own for each level, and the maximum over the levels goes on (PANet).
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_levels: int,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: str = "",
        fc_norm: str = "",
    ) -> None:
        """
        Args:
            input_shape: of one level's RoI features.
            num_levels: that the RoIs are pooled from.
            conv_dims, fc_dims: channels of the 3x3 convolutions, then of the fully connected layers. One at least.
            conv_norm, fc_norm: as in Detectron2's ``get_norm``; of those, "GN" alone can follow a fully connected
                layer.
        """
        super().__init__()
        check_argument("fc_norm", fc_norm, fc_norm in ("", "GN"), "'' or 'GN'")
        channels, area = input_shape.channels, input_shape.height * input_shape.width
        makers = []
        for k, dim in enumerate(conv_dims):
            makers.append((f"conv{k + 1}", partial(conv_layer, channels, dim, conv_norm)))
            channels = dim
        self._output_shape = ShapeSpec(channels=channels, height=input_shape.height, width=input_shape.width)
        for k, dim in enumerate(fc_dims):
            width = channels * area if k == 0 else channels
            makers.append((f"fc{k + 1}", partial(fc_layer, width, dim, fc_norm)))
            channels = dim
            self._output_shape = ShapeSpec(channels=dim)
        if not makers:
            raise ValueError("conv_dims and fc_dims are both empty; the head needs a layer to fuse the levels after")
        for k, (name, make) in enumerate(makers):
            self.add_module(name, make() if k > 0 else LevelFusion(num_levels, make))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_roi_heads(cfg)
        head = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "conv_dims": [head.CONV_DIM] * head.NUM_CONV,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "conv_norm": head.NORM,
            "fc_norm": head.FC_NORM,
        }

    def forward(self, x: Tensor) -> Tensor:
        """(R, L, C, S, S) -> (R, D), or (R, D, S, S) without fully connected layers."""
        return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def output_shape(self) -> ShapeSpec:
        """The shape of what :meth:`forward` returns."""
        return self._output_shape


def conv_layer(in_channels: int, out_channels: int, norm: str) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size=3,
        padding=1,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=nn.ReLU(),
    )
    weight_init.c2_msra_fill(conv)
    return conv


def fc_layer(in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    fc = nn.Linear(in_channels, out_channels)
    weight_init.c2_xavier_fill(fc)
    norms = [get_norm(norm, out_channels)] if norm else []
    return nn.Sequential(nn.Flatten(), fc, *norms, nn.ReLU())
