"""Adaptive feature pooling and the heads over it: their formulas, in detectors, wrong configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from torchvision.ops import roi_align

from fpt_d2.engine import read_config
from fpt_d2.errors import ConfigError
from fpt_d2.model_zoo import get_config_file
from fpt_d2.modeling import AdaptiveBoxHead, AdaptiveMaskHead, AdaptivePooler

FOUR_CONV = "COCO-Detection/faster_rcnn_R_50_FPT_paper.yaml"
TWO_FC = "COCO-Detection/faster_rcnn_R_50_FPT_paper_2fc.yaml"
MASK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_paper.yaml"
SHAPE = ShapeSpec(channels=32, height=4, width=4)


def boxes() -> list[Boxes]:
    return [
        Boxes(torch.tensor([[2.0, 3, 30, 40], [0, 0, 63, 63], [5, 50, 9, 55]])),
        Boxes(torch.tensor([[10.0, 10, 50, 20]])),
    ]


def levels(*strides: int, size: int = 64, channels: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, channels, size // s, size // s, generator=generator) for s in strides]


def roi_features(num_levels: int = 3, rois: int = 6) -> Tensor:
    return torch.randn(rois, num_levels, 32, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def randomize(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module.double()


def gn(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Group normalisation, written out."""
    groups = x.flatten(1).unflatten(1, (norm.num_groups, -1))
    z = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + norm.eps).sqrt()
    shape = (1, -1, *[1] * (x.dim() - 2))
    return z.flatten(1).unflatten(1, x.shape[1:]).reshape(x.shape) * norm.weight.view(shape) + norm.bias.view(shape)


def conv_gn_relu(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return gn(F.conv2d(x, conv.weight, padding=1), conv.norm).relu()


def test_every_roi_comes_from_every_level() -> None:
    scales, maps = (1 / 4, 1 / 8, 1 / 16), levels(4, 8, 16)
    pooled = AdaptivePooler(7, scales, 2, "ROIAlignV2")(maps, boxes())
    assert pooled.shape == (4, 3, 5, 7, 7)
    for n, (scale, level) in enumerate(zip(scales, maps)):
        expected = roi_align(level, [b.tensor for b in boxes()], 7, scale, 2, aligned=True)
        torch.testing.assert_close(pooled[:, n], expected)
    # Detectron2's takes one of them
    one = ROIPooler(7, scales, 2, "ROIAlignV2", canonical_box_size=16, canonical_level=3)(maps, boxes())
    assert all(any(torch.equal(a, b) for b in every) for a, every in zip(one, pooled))


def test_no_roi_at_all() -> None:
    pooler = AdaptivePooler(4, (1 / 4, 1 / 8, 1 / 16), 2, "ROIAlignV2")
    pooled = pooler(levels(4, 8, 16, channels=32), [Boxes(torch.zeros(0, 4)), Boxes(torch.zeros(0, 4))])
    assert pooled.shape == (0, 3, 32, 4, 4)
    for options in ({"conv_dims": [32], "fc_dims": [64]}, {"conv_dims": [], "fc_dims": [64, 64], "fc_norm": "GN"}):
        head = AdaptiveBoxHead(SHAPE, num_levels=3, conv_norm="GN", **options)
        assert head(pooled).shape == (0, 64)
    assert AdaptiveMaskHead(SHAPE, num_levels=3, num_classes=2, conv_dim=64, conv_norm="GN").layers(pooled).shape == (
        *(0, 2, 8, 8),
    )


def test_4conv1fc_head_is_the_formula() -> None:
    head = randomize(AdaptiveBoxHead(SHAPE, num_levels=3, conv_dims=[64, 64, 64, 64], fc_dims=[96], conv_norm="GN"))
    x = roi_features()
    fused = torch.stack([conv_gn_relu(x[:, n], head.conv1.layers[n]) for n in range(3)]).amax(0)
    for k in (2, 3, 4):
        fused = conv_gn_relu(fused, getattr(head, f"conv{k}"))
    fc = head.fc1[1]
    torch.testing.assert_close(head(x), (fused.flatten(1) @ fc.weight.t() + fc.bias).relu(), rtol=0, atol=1e-10)
    assert head.output_shape == ShapeSpec(channels=96) and [n for n, _ in head.named_children()] == [
        *("conv1", "conv2", "conv3", "conv4", "fc1"),
    ]


@pytest.mark.parametrize("norm", ["GN", ""])
def test_2fc_head_is_the_formula(norm: str) -> None:
    head = randomize(AdaptiveBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[64, 64], fc_norm=norm))

    def layer(x: Tensor, module: nn.Sequential) -> Tensor:
        y = x.flatten(1) @ module[1].weight.t() + module[1].bias
        return (gn(y, module[2]) if norm else y).relu()

    x = roi_features()
    fused = torch.stack([layer(x[:, n], head.fc1.layers[n]) for n in range(3)]).amax(0)
    torch.testing.assert_close(head(x), layer(fused, head.fc2), rtol=0, atol=1e-10)


def test_head_of_convolutions_alone_says_its_shape() -> None:
    head = AdaptiveBoxHead(SHAPE, num_levels=2, conv_dims=[8], fc_dims=[])
    assert head.output_shape == ShapeSpec(channels=8, height=4, width=4)
    assert head(roi_features(2).float()).shape == (6, 8, 4, 4)


@pytest.mark.parametrize("fc_fusion", [True, False])
def test_mask_head_is_the_formula(fc_fusion: bool) -> None:
    head = randomize(
        AdaptiveMaskHead(SHAPE, num_levels=3, num_classes=5, conv_dim=64, conv_norm="GN", fc_fusion=fc_fusion)
    )
    x = roi_features()
    x3 = torch.stack([conv_gn_relu(x[:, n], head.mask_fcn1.layers[n]) for n in range(3)]).amax(0)
    for k in (2, 3):
        x3 = conv_gn_relu(x3, getattr(head, f"mask_fcn{k}"))
    up = F.conv_transpose2d(conv_gn_relu(x3, head.mask_fcn4), head.deconv.weight, head.deconv.bias, stride=2).relu()
    expected = F.conv2d(up, head.predictor.weight, head.predictor.bias)
    if fc_fusion:
        short = conv_gn_relu(conv_gn_relu(x3, head.fc_path[0]), head.fc_path[1])
        assert short.shape == (6, 32, 4, 4)
        foreground = short.flatten(1) @ head.fc_path[3].weight.t() + head.fc_path[3].bias
        expected = expected + foreground.view(6, 1, 8, 8)
    torch.testing.assert_close(head.layers(x), expected, rtol=0, atol=1e-10)


def small_config(name: str, *opts: Any) -> CfgNode:
    small = [
        *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
        *("MODEL.FPN.OUT_CHANNELS", 32, "MODEL.FPT.BRANCH_CHANNELS", 16, "MODEL.FPT.NORM", "BN"),
        *("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0),
        *("MODEL.ROI_BOX_HEAD.CONV_DIM", 32, "MODEL.ROI_BOX_HEAD.FC_DIM", 64, "MODEL.ROI_MASK_HEAD.CONV_DIM", 64),
        *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 30, "MODEL.RPN.POST_NMS_TOPK_TEST", 10),
        *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
    ]
    return read_config(get_config_file(name), [str(x) for x in (*small, *opts)])


def example(num: int = 2) -> dict[str, Any]:
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 10:60, 10:50] = masks[1, 30:90, 60:120] = True
    gt = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 10, 50, 60], [60, 30, 120, 90]])))
    gt.gt_classes, gt.gt_masks = torch.tensor([3, 7]), BitMasks(masks)
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0)).float()
    return {"image": image, "instances": gt[torch.arange(num)], "height": 96, "width": 128}


CASCADE = ["MODEL.ROI_HEADS.NAME", "AdaptiveCascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]


@pytest.mark.parametrize(
    "name, opts",
    [(FOUR_CONV, []), (TWO_FC, []), (MASK, []), (MASK, CASCADE)],
    ids=["4conv1fc", "2fc", "mask", "cascade"],
)
def test_authors_detectors_train_with_every_parameter_and_detect(name: str, opts: list) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name, *opts))
    with EventStorage():
        losses = model([example()])
    sum(losses.values()).backward()
    unused = [n for n, p in model.roi_heads.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unused == [] and all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        instances = model.eval()([example()])[0]["instances"]
    assert len(instances) > 0 and instances.has("pred_masks") is ("mask" in name)


@pytest.mark.parametrize("name", [TWO_FC, MASK])
def test_image_without_objects(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name))
    with EventStorage():
        losses = model([example(0)])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_configs_have_the_authors_heads() -> None:
    with torch.device("meta"):
        four, two, mask = (
            build_model(read_config(get_config_file(n), ["MODEL.DEVICE", "meta"])).roi_heads
            for n in (FOUR_CONV, TWO_FC, MASK)
        )
    for heads in (four, two, mask):
        assert type(heads).__name__ == "AdaptiveROIHeads" and len(heads.box_pooler.level_poolers) == 4
    assert [n for n, _ in four.box_head.named_children()] == ["conv1", "conv2", "conv3", "conv4", "fc1"]
    assert not any(isinstance(m, nn.GroupNorm) for m in four.box_head.fc1)
    assert [n for n, _ in two.box_head.named_children()] == ["fc1", "fc2"]
    assert isinstance(two.box_head.fc2[2], nn.GroupNorm) and len(two.box_head.fc1.layers) == 4
    fc = mask.mask_head.fc_path[3]
    assert (fc.in_features, fc.out_features) == (128 * 14 * 14, 28 * 28)
    assert mask.mask_pooler.output_size == (14, 14)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], r"BOX_HEAD.NAME is 'AdaptiveBoxHead'; .*'StandardROIHeads'"),
        (["MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"], "BOX_HEAD.NAME is 'FastRCNNConvFCHead'"),
        (["MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"], "MASK_HEAD.NAME is 'MaskRCNNConvUpsampleHead'"),
        (["MODEL.ROI_BOX_HEAD.FC_NORM", "BN"], "FC_NORM is 'BN'; allowed: '' or 'GN'"),
        (["MODEL.ROI_MASK_HEAD.NUM_CONV", 1], "NUM_CONV is 1; allowed: 2 or more"),
        (["MODEL.ROI_BOX_HEAD.NUM_CONV", 0, "MODEL.ROI_BOX_HEAD.NUM_FC", 0], "NUM_FC is 0; allowed: 1 or more"),
        (["MODEL.ROI_BOX_HEAD.NORM", "XN"], "BOX_HEAD.NORM is 'XN'; allowed: ''"),
        (["MODEL.ROI_BOX_HEAD.CONV_DIM", 40], "'GN' where 32 divides MODEL.ROI_BOX_HEAD.CONV_DIM, which is 40"),
        (["MODEL.ROI_BOX_HEAD.FC_NORM", "GN", "MODEL.ROI_BOX_HEAD.FC_DIM", 40], "32 divides MODEL.ROI_BOX_HEAD.FC_DIM"),
        (["MODEL.ROI_MASK_HEAD.CONV_DIM", 32], "'GN' where 64 divides MODEL.ROI_MASK_HEAD.CONV_DIM, which is 32"),
    ],
)
def test_wrong_configs_are_named(opts: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(small_config(MASK, *opts))


def test_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="conv_dims and fc_dims are both empty"):
        AdaptiveBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[])


def test_head_that_gets_one_level_names_the_remedy() -> None:
    head = AdaptiveBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[8])
    for x in (torch.zeros(2, 32, 4, 4), torch.zeros(2, 4, 32, 4, 4)):
        with pytest.raises(ValueError, match="set MODEL.ROI_HEADS.NAME to 'AdaptiveROIHeads'"):
            head(x)
