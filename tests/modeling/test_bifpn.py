"""BiFPN: its weights, its fusion against the formula, sizes, FPN's weights in its laterals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.errors import ConfigError
from fpt_d2.modeling import BiFPN
from fpt_d2.modeling.bifpn import BiFPNLayer, WeightedFusion

from .models import FASTER_RCNN, FPN_BUILDERS, RETINANET, PatchTrunk, small_config

BUILDERS = {FASTER_RCNN: "build_resnet_bifpn_backbone", RETINANET: "build_retinanet_resnet_bifpn_backbone"}


def image(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


def config(name: str = FASTER_RCNN, *opts: object):
    # 64: of 32 groups of one channel each, a level of one position would have nothing to normalise over
    return small_config(name, "MODEL.BACKBONE.NAME", BUILDERS[name], "MODEL.FPN.OUT_CHANNELS", 64, *opts)


def maps(*sizes: int, channels: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        f"p{i + 3}": torch.randn(2, channels, n, -(-11 // 2**i), dtype=torch.float64, generator=generator)
        for i, n in enumerate(sizes)
    }


@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.5, 2.0, 3.0], [-1.0, 2.0], [-1.0, -2.0]])
def test_weights_are_a_mean_that_leaves_out_the_negative(weight: list) -> None:
    fusion = WeightedFusion(len(weight), 4, norm="").double()
    fusion.weight.data = torch.tensor(weight, dtype=torch.float64)
    normalized = fusion.normalized_weights()
    positive = [max(w, 0.0) for w in weight]
    expected = torch.tensor([w / (sum(positive) + 1e-4) for w in positive], dtype=torch.float64)
    torch.testing.assert_close(normalized, expected, rtol=0, atol=1e-15)
    assert normalized.sum() < 1 and (sum(positive) == 0 or normalized.sum() > 0.999)


def test_fusion_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    fusion = WeightedFusion(3, 4, norm="").double()
    fusion.weight.data = torch.tensor([0.3, 1.7, 0.6], dtype=torch.float64)
    inputs = [torch.randn(2, 4, 5, 6, dtype=torch.float64) for _ in range(3)]
    mean = (0.3 * inputs[0] + 1.7 * inputs[1] + 0.6 * inputs[2]) / (2.6 + 1e-4)
    depthwise, pointwise = fusion.conv.depthwise, fusion.conv.pointwise
    x = F.conv2d(mean * mean.sigmoid(), depthwise.weight, depthwise.bias, padding=1, groups=4)
    torch.testing.assert_close(fusion(inputs), F.conv2d(x, pointwise.weight, pointwise.bias), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sizes", [(8, 4, 2), (9, 5, 3), (7, 4, 2)], ids=str)
def test_layer_is_the_papers_two_paths(sizes: tuple) -> None:
    torch.manual_seed(0)
    layer = BiFPNLayer(["p3", "p4", "p5"], 4, norm="").double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    p = maps(*sizes)
    down, up = layer.top_down, layer.bottom_up

    def grow(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[-2:])

    def shrink(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1)

    middle = down["p4"]([p["p4"], grow(p["p5"], p["p4"])])
    p3 = down["p3"]([p["p3"], grow(middle, p["p3"])])
    p4 = up["p4"]([p["p4"], middle, shrink(p3)])
    p5 = up["p5"]([p["p5"], shrink(p4)])
    out = layer(p)
    assert list(out) == ["p3", "p4", "p5"] and set(down) == {"p3", "p4"} and set(up) == {"p4", "p5"}
    for ours, expected in zip(out.values(), (p3, p4, p5)):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, levels", [(FASTER_RCNN, "23456"), (RETINANET, "34567")])
@pytest.mark.parametrize("size", [(64, 128), (70, 101), (33, 47)], ids=str)
def test_levels_and_sizes(name: str, levels: str, size: tuple) -> None:
    model = build_backbone(config(name)).eval()
    assert BUILDERS[name] in BACKBONE_REGISTRY and type(model) is BiFPN and model.size_divisibility == 32
    out = model(image(*size))
    assert list(out) == list(model.output_shape()) == [f"p{n}" for n in levels]
    for level, shape in model.output_shape().items():
        expected = tuple(-(-side // shape.stride) for side in size)
        assert out[level].shape == (1, 64, *expected) and shape.channels == 64


def test_trunk_that_rounds_odd_sizes_down() -> None:
    trunk = PatchTrunk()
    model = BiFPN(trunk, list(trunk.output_shape()), 64, num_layers=2)
    out = model(image(92, 124))
    assert [tuple(x.shape[-2:]) for x in out.values()] == [(23, 31), (11, 15), (5, 7), (2, 3), (1, 2)]


@pytest.mark.parametrize("num_layers", [1, 4])
def test_repeated_layers_have_weights_of_their_own(num_layers: int) -> None:
    model = build_backbone(config(FASTER_RCNN, "MODEL.BIFPN.NUM_LAYERS", num_layers))
    assert sum(isinstance(m, BiFPNLayer) for m in model.modules()) == num_layers
    # five levels: four fusions up, four down, each of which has its weights
    assert sum(isinstance(m, WeightedFusion) for m in model.modules()) == 8 * num_layers
    sum(x.square().mean() for x in model(image(64, 64)).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", FPN_BUILDERS)
def test_fpns_weights_load_into_the_trunk_and_the_laterals(name: str, tmp_path: Path) -> None:
    fpn = build_backbone(config(name, "MODEL.BACKBONE.NAME", FPN_BUILDERS[name]))
    torch.save({"model": {f"backbone.{k}": v for k, v in fpn.state_dict().items()}}, tmp_path / "fpn.pth")
    model = nn.Module()
    model.backbone = build_backbone(config(name))
    FPTCheckpointer(model).load(str(tmp_path / "fpn.pth"))
    shared = [k for k in fpn.state_dict() if k in model.backbone.state_dict()]
    assert {k.partition(".")[0] for k in shared} == {"bottom_up"} | {f"fpn_lateral{f[-1]}" for f in fpn.in_features}
    assert all(torch.equal(model.backbone.state_dict()[k], fpn.state_dict()[k]) for k in shared)


@pytest.mark.parametrize(
    "opts, message",
    [
        (["MODEL.BIFPN.NUM_LAYERS", 0], "BIFPN.NUM_LAYERS is 0; allowed: 1 or more"),
        (["MODEL.BIFPN.NORM", "XN"], "BIFPN.NORM is 'XN'; allowed: ''"),
        (
            ["MODEL.FPN.OUT_CHANNELS", 48],
            "BIFPN.NORM is 'GN'; .*'GN' where 32 divides MODEL.FPN.OUT_CHANNELS, which is 48",
        ),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res9"]], r"IN_FEATURES is \['res2', 'res9'\]"),
        (["MODEL.FPN.IN_FEATURES", ["res2", "res4"]], r"IN_FEATURES is \['res2', 'res4'\]; allowed: a contiguous part"),
    ],
)
def test_wrong_values_are_named(opts: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(config(FASTER_RCNN, *opts))


def test_strides_that_do_not_double_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have strides \[4, 16\]; they must double"):
        BiFPN(PatchTrunk(), ["res2", "res4"], 64)


@pytest.mark.parametrize("name", BUILDERS)
def test_detector_trains_and_detects(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(config(name))
    gt = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 10, 60, 70]])), gt_classes=torch.tensor([3]))
    data = {"image": torch.rand(3, 96, 128) * 255, "instances": gt, "height": 96, "width": 128}
    with EventStorage():
        losses = model([data])
    sum(losses.values()).backward()
    bifpn = [p for n, p in model.backbone.named_parameters() if n.startswith(("bifpn", "fpn_"))]
    assert len(bifpn) > 100 and all(p.grad.isfinite().all() for p in bifpn)
    with torch.no_grad():
        assert model.eval()([data])[0]["instances"].image_size == (96, 128)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced() -> None:
    model: Callable = build_backbone(config()).eval()
    with torch.no_grad():
        traced = torch.jit.trace(model, image(64, 64), strict=False)
        for level, expected in model(image(64, 96)).items():
            torch.testing.assert_close(traced(image(64, 96))[level], expected, rtol=1e-4, atol=1e-4)
