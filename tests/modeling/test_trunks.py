"""Trunks: Detectron2's ResNets, the same with attention plugged in, Detectron2's other backbones, other libraries."""

from __future__ import annotations

import builtins
import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import FPN, Backbone, ResNet, SwinTransformer, build_backbone, build_resnet_backbone
from detectron2.modeling.backbone import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.mvit import MViT
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_d2 import FPT
from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.core import PyramidTransform, ValidSizes, mixture
from fpt_d2.errors import ConfigError
from fpt_d2.modeling import FeatureTrunk, PluginResNet, timm_trunk, torchvision_trunk
from fpt_d2.modeling.fpt import pyramid_strides
from fpt_d2.modeling.trunks import AttentionAugmentation, GlobalContext, NonLocal, build_trunk

from .models import RETINANET, small_config

KINDS = ("NON_LOCAL", "GLOBAL_CONTEXT", "ATTENTION_AUGMENTED")
R50 = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256]
SHAPE = ShapeSpec(channels=3)


def image(*size: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def trunk(*opts: object) -> Backbone:
    torch.manual_seed(0)
    return build_trunk(small_config(*(RETINANET, *opts)), SHAPE).eval()


def randomize(module: nn.Module, std: float = 0.2) -> None:
    """The parts that start at zero too."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)


# Detectron2's own


@pytest.mark.parametrize(
    "name, opts",
    [
        ("resnet18", [18]),
        ("resnet34", [34]),
        ("resnet50", [50]),
        ("resnet101", [101]),
        ("resnet152", [152]),
        ("resnext101_32x8d", [101, "MODEL.RESNETS.NUM_GROUPS", 32, "MODEL.RESNETS.WIDTH_PER_GROUP", 8]),
    ],
)
def test_resnets_of_every_depth_have_the_parameters_of_torchvisions(name: str, opts: list) -> None:
    with torch.device("meta"):
        ours = build_trunk(
            small_config(
                *(RETINANET, "MODEL.RESNETS.DEPTH", *opts, "MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0),
                *("MODEL.RESNETS.RES2_OUT_CHANNELS", 64 if opts[0] < 50 else 256),
            ),
            SHAPE,
        )
        theirs = torchvision.models.get_model(name)
    del theirs.fc
    assert sorted(p.shape for p in ours.parameters()) == sorted(p.shape for p in theirs.parameters())
    assert type(ours) is ResNet


@pytest.mark.parametrize("norm", ["GN", "SyncBN", "BN", "FrozenBN"])
def test_norms(norm: str) -> None:
    model = build_backbone(small_config(RETINANET, "MODEL.RESNETS.NORM", norm, "MODEL.FPN.NORM", norm)).eval()
    out = model(image(64, 96))
    assert all(x.isfinite().all() for x in out.values())
    kinds = {type(m).__name__ for m in model.bottom_up.modules()}
    expected = {"GN": "GroupNorm", "SyncBN": "SyncBatchNorm", "BN": "BatchNorm2d", "FrozenBN": "FrozenBatchNorm2d"}
    assert expected[norm] in kinds and not kinds & (set(expected.values()) - {expected[norm], "FrozenBatchNorm2d"})


def test_deformable_resnet_says_what_is_missing() -> None:
    opts = [*R50, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False, False, False, True]]
    try:
        from detectron2 import _C  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"DEFORM_ON_PER_STAGE needs Detectron2's compiled .*detectron2\._C$"):
            trunk(*opts)
    else:
        assert any("Deform" in type(m).__name__ for m in trunk(*opts).modules())


@pytest.mark.parametrize("builder", ["build_vgg", "build_retinanet_resnet_fpt_backbone"])
def test_unfit_builder_is_named(builder: str) -> None:
    with pytest.raises(ValueError, match=f"TRUNK.BUILDER is '{builder}'; allowed: a backbone without a neck"):
        trunk("MODEL.TRUNK.BUILDER", builder)


# Plug-ins: their formulas


def attention_by_hand(module: NonLocal, x: Tensor, valid: Tensor) -> Tensor:
    """The paper's sum over positions, one image."""
    tokens = x.flatten(1).t()
    q, k, v = (layer(tokens) for layer in (module.query, module.key, module.value))
    scores = q @ k.t()
    if module.similarity == "dot":
        weights = scores * valid / valid.sum()
    else:
        weights = (scores / q.shape[1] ** 0.5).masked_fill(~valid, float("-inf")).softmax(1)
    return x + (module.out(weights @ v)).t().unflatten(1, x.shape[1:])


def masked_input(channels: int, height: int = 5, width: int = 7) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    mask = torch.ones(2, height, width, dtype=torch.bool)
    mask[1, 3:], mask[1, :, 4:] = False, False
    return x, mask


@pytest.mark.parametrize("similarity", ["embedded", "dot"])
def test_non_local_is_the_papers_formula(similarity: str) -> None:
    x, mask = masked_input(6)
    module = NonLocal(6, similarity=similarity).double()
    assert torch.equal(module(x, mask), x)
    randomize(module)
    expected = torch.stack([attention_by_hand(module, a, m.flatten()) for a, m in zip(x, mask)])
    torch.testing.assert_close(module(x, mask), expected, rtol=0, atol=1e-12)
    whole = torch.stack([attention_by_hand(module, a, torch.ones(35, dtype=torch.bool)) for a in x])
    torch.testing.assert_close(module(x), whole, rtol=0, atol=1e-12)


def test_global_context_is_the_papers_formula() -> None:
    x, mask = masked_input(32)
    module = GlobalContext(32).double()
    assert torch.equal(module(x, mask), x) and module.reduce.out_features == 2
    randomize(module)
    for a, m, out in zip(x, mask, module(x, mask)):
        positions = a[:, m].t()  # valid ones only
        context = (module.attention(positions).softmax(0) * positions).sum(0)
        z = module.reduce(context)
        z = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt() * module.norm.weight + module.norm.bias
        torch.testing.assert_close(out, a + module.out(z.relu())[:, None, None], rtol=0, atol=1e-12)


def augmentation_by_hand(module: AttentionAugmentation, x: Tensor, valid: Tensor) -> Tensor:
    """Every score from its query, its key and the two embeddings of their distance; one image."""
    height, width = x.shape[1:]
    tokens, heads, reach = x.flatten(1).t(), module.num_heads, module.max_distance
    q, k, v = (layer(tokens).chunk(heads, 1) for layer in (module.query, module.key, module.value))
    outs = []
    for n in range(heads):
        scores = torch.empty(len(tokens), len(tokens), dtype=x.dtype)
        for i in range(len(tokens)):
            for j in range(len(tokens)):
                down = max(-reach, min(reach, j // width - i // width))
                right = max(-reach, min(reach, j % width - i % width))
                key = k[n][j] + module.rows[down + reach] + module.columns[right + reach]
                scores[i, j] = q[n][i] @ key / len(key) ** 0.5
        outs.append(scores.masked_fill(~valid, float("-inf")).softmax(1) @ v[n])
    return module.out(torch.cat(outs, 1)).t().unflatten(1, (height, width))


@pytest.mark.parametrize("max_distance", [2, 32])
def test_attention_augmentation_is_the_papers_formula(max_distance: int) -> None:
    x, mask = masked_input(6, 4, 5)
    module = AttentionAugmentation(6, 30, num_heads=2, max_distance=max_distance).double()
    assert torch.equal(module(x, mask), torch.zeros(2, 30, 4, 5, dtype=torch.float64))
    randomize(module, std=0.5)
    expected = torch.stack([augmentation_by_hand(module, a, m.flatten()) for a, m in zip(x, mask)])
    torch.testing.assert_close(module(x, mask), expected, rtol=0, atol=1e-12)
    assert module(x, mask, stride=2).shape == F.conv2d(x, x.new_zeros(1, 6, 3, 3), stride=2, padding=1).shape[:1] + (
        *(30, 2, 3),
    )


def test_attention_augmentation_has_the_papers_widths() -> None:
    module = AttentionAugmentation(512, 512)
    assert (module.query.out_features, module.key.out_features, module.value.out_features) == (160, 160, 48)
    wide = AttentionAugmentation(1024, 1024)  # 0.2 and 0.1 of it, in eight heads
    assert (wide.key.out_features, wide.value.out_features) == (200, 96)


@pytest.mark.parametrize("kind", [NonLocal, AttentionAugmentation])
def test_no_tensor_of_all_pairs_of_positions(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "STEP_BYTES", 2**16)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (out if isinstance(out, (tuple, list)) else [out]) if torch.is_tensor(t))
            return out

    module = kind(8) if kind is NonLocal else kind(8, 8, num_heads=2)
    x = torch.randn(1, 8, 60, 60, requires_grad=True)
    with Watch():
        module(x).square().sum().backward()
    assert max(sizes) < 3600 * 3600 / 8, max(sizes)


@pytest.mark.parametrize("make", [NonLocal, GlobalContext, lambda c: AttentionAugmentation(c, c)])
def test_bfloat16_is_finite(make: Callable[[int], nn.Module]) -> None:
    module = make(32)
    randomize(module)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(100 * torch.rand(1, 32, 12, 12))
    out.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


# Plug-ins: in a ResNet


ALL_PLACES = [x for kind in KINDS for x in (f"MODEL.PLUGINS.{kind}", ["res3", "res4.-2", "res5.1"])]


@pytest.mark.parametrize("opts", [[], R50, [*R50, "MODEL.RESNETS.STRIDE_IN_1X1", False]], ids=str)
def test_plugins_start_as_the_plain_resnet_with_its_names(opts: list) -> None:
    plain, ours = trunk(*opts), trunk(*opts, *ALL_PLACES)
    assert type(plain) is ResNet and type(ours) is PluginResNet
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing and all(name.startswith("plugins.") for name in missing)
    assert ours.output_shape() == plain.output_shape()
    x = image(64, 96, batch=2)
    x[1, :, 40:] = 0
    with torch.no_grad():
        for name, expected in plain(x).items():
            torch.testing.assert_close(ours(x)[name], expected, rtol=0, atol=0)
        randomize(ours.plugins, 0.02)
        assert all((ours(x)[name] - expected).abs().max() > 1e-4 for name, expected in plain(x).items())


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_plugins_act_where_their_papers_have_them(stride_in_1x1: bool) -> None:
    places = [x for kind in KINDS for x in (f"MODEL.PLUGINS.{kind}", ["res4.0"])]
    model = trunk(*R50, "MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1, *places).double()
    randomize(model.plugins, 0.02)
    non_local, context, attention = (
        model.plugins[kind]["res4_0"] for kind in ("non_local", "global_context", "attention")
    )
    block = model.res4[0]
    seen = {}
    block.conv1.register_forward_hook(lambda m, inputs, out: seen.update(x=inputs[0]))
    model.res4[1].conv1.register_forward_hook(lambda m, inputs, out: seen.update(out=inputs[0]))
    with torch.no_grad():
        model(image(64, 64).double())
        x = seen["x"]
        inner = block.conv1(x).relu()
        beside = attention(inner, stride=1 if stride_in_1x1 else 2)
        residual = context(block.conv3((block.conv2(inner) + beside).relu()))
        torch.testing.assert_close(seen["out"], non_local((residual + block.shortcut(x)).relu()), rtol=1e-9, atol=1e-9)


def test_attention_leaves_out_the_padding() -> None:
    model = trunk(*ALL_PLACES)
    masks = {}
    for kind, plugins in model.plugins.items():
        for place, module in plugins.items():
            module.register_forward_hook(lambda m, inputs, out, key=(kind, place): masks.update({key: inputs[1]}))
    batch = image(64, 128, batch=2)
    batch[1, :, 32:], batch[1, :, :, 96:] = 0, 0
    model(batch)
    assert len(masks) == 12
    for (_, place), mask in masks.items():
        share = mask.flatten(1).float().mean(1).tolist()
        assert share[0] == 1 and abs(share[1] - 0.375) < 0.13, (place, share)
    model(image(64, 128))
    assert all(mask.all() for mask in masks.values())
    assert ValidSizes.read(batch).mask().sum() == 64 * 128 + 32 * 96


def test_plugins_learn_while_the_stage_below_is_frozen() -> None:
    cfg = small_config(RETINANET, *ALL_PLACES, "MODEL.PLUGINS.NON_LOCAL", ["res2"], "MODEL.BACKBONE.FREEZE_AT", 2)
    torch.manual_seed(0)
    model = build_trunk(cfg, SHAPE)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    start = {name: p.clone() for name, p in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        sum(x.square().mean() for x in model(image(64, 64)).values()).backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[name]) is name.startswith(("stem", "res2")), name


@pytest.mark.parametrize(
    "places, message",
    [
        (["res6"], r"^MODEL\.PLUGINS\.NON_LOCAL is 'res6'; allowed: places in res2 \(blocks 0 to 1\), res3"),
        (["res4.2"], r"'res4.2'; allowed: places in .*res4 \(blocks 0 to 1\)"),
        (["res4.-3"], "'res4.-3'"),
        (["res4.x"], "'res4.x'"),
        ([""], "''"),
    ],
)
def test_unknown_place_is_named(places: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trunk("MODEL.PLUGINS.NON_LOCAL", places)


def test_places_name_blocks_from_either_end() -> None:
    model = trunk("MODEL.PLUGINS.NON_LOCAL", ["res3.-1", "res5", "res5.0"])
    assert list(model.plugins["non_local"]) == ["res3_1", "res5_0", "res5_1"]


def test_a_block_of_another_kind_takes_non_local_only() -> None:
    from detectron2.modeling.backbone.resnet import BasicStem, BottleneckBlock

    class Other(BottleneckBlock):
        """As a deformable block, it computes something else."""

    def make(**places: Any) -> PluginResNet:
        blocks = ResNet.make_stage(Other, 2, in_channels=8, out_channels=8, bottleneck_channels=4)
        return PluginResNet(BasicStem(3, 8), [blocks], **places)

    assert make(non_local=["res2.0"])(image(32, 32))["res2"].shape == (1, 8, 8, 8)
    for kind in ("global_context", "attention_augmented"):
        with pytest.raises(ValueError, match=f"{kind} is 'res2.1'; allowed: .*Other takes non_local only"):
            make(**{kind: ["res2.1"]})


def test_plugins_need_a_resnet() -> None:
    with pytest.raises(ValueError, match="PLUGINS needs Detectron2's ResNet; the trunk is a FeatureTrunk"):
        trunk(*torchvision_options("resnet18"), "MODEL.PLUGINS.NON_LOCAL", ["res4"])


def test_wrong_keys_are_named() -> None:
    with pytest.raises(ConfigError) as error:
        trunk("MODEL.PLUGINS.NON_LOCAL_SIMILARITY", "cosine", "MODEL.PLUGINS.NON_LOCAL", ["res4"])
    assert str(error.value) == "MODEL.PLUGINS.NON_LOCAL_SIMILARITY is 'cosine'; allowed: 'embedded' or 'dot'"
    with pytest.raises(ConfigError) as error:
        trunk(*torchvision_options("resnet18"), "MODEL.TRUNK.NORM", "GN")
    assert str(error.value) == "MODEL.TRUNK.NORM is 'GN'; allowed: 'FrozenBN', 'BN' or 'SyncBN'"
    with pytest.raises(ConfigError, match=r"^MODEL\.TRUNK\.LAYERS is \[\]; allowed: the modules"):
        trunk(*torchvision_options("resnet18")[:4], "MODEL.TRUNK.LAYERS", [])
    with pytest.raises(ConfigError, match=r"^MODEL\.RESNETS\.DEPTH is 20; allowed: 18, 34, 50, 101, 152$"):
        trunk("MODEL.RESNETS.DEPTH", 20)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_copied_and_traced() -> None:
    model = trunk(*ALL_PLACES).double()
    randomize(model.plugins, 0.02)
    with torch.no_grad():
        x = image(64, 96, batch=2).double()
        expected = model(x)
        traced = torch.jit.trace(model, image(64, 64).double(), strict=False)
        for other in (copy.deepcopy(model), traced):
            for name, feature in expected.items():
                torch.testing.assert_close(other(x)[name], feature, rtol=1e-8, atol=1e-8)


def test_exported_for_images_of_any_size() -> None:
    model = trunk(*ALL_PLACES).double()
    randomize(model.plugins, 0.02)
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    sizes = {"x": {2: 32 * height, 3: 32 * width}}
    with torch.no_grad():
        exported = torch.export.export(model, (image(64, 96).double(),), dynamic_shapes=sizes).module()
        for size in ((64, 96), (128, 64)):
            x = image(*size).double()
            for name, feature in model(x).items():
                torch.testing.assert_close(exported(x)[name], feature, rtol=1e-8, atol=1e-8)


def test_resnet_weights_load_with_plugins_new_by_design(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = build_backbone(small_config(RETINANET))
    path = tmp_path / "fpn.pth"
    torch.save({"model": {f"backbone.{name}": weight for name, weight in plain.state_dict().items()}}, path)
    model = nn.Module()
    model.backbone = build_backbone(small_config(RETINANET, *ALL_PLACES))
    with caplog.at_level(logging.INFO):
        FPTCheckpointer(model).load(str(path))
    assert "missing" not in caplog.text and "unexpected" not in caplog.text and "new, as initialized" in caplog.text
    for name, weight in plain.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], weight)


# Any Detectron2 backbone


def regnet() -> Backbone:
    """RegNetX of 200 MFLOPs."""
    kinds = {"stem_class": SimpleStem, "stem_width": 32, "block_class": ResBottleneckBlock}
    widths = {"depth": 13, "w_a": 36.44, "w_0": 24, "w_m": 2.49, "group_width": 8}
    return RegNet(**kinds, **widths, out_features=["s1", "s2", "s3", "s4"])


def swin() -> Backbone:
    return SwinTransformer(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, drop_path_rate=0)


def mvit() -> Backbone:
    pytest.importorskip("timm", reason="Detectron2's MViT needs timm")
    return MViT(embed_dim=8, depth=4, last_block_indexes=(0, 1, 2, 3), img_size=64, adaptive_window_size=8)


def simple_pyramid() -> Backbone:
    pytest.importorskip("timm", reason="Detectron2's ViT needs timm")
    vit = ViT(img_size=64, embed_dim=16, depth=1, num_heads=2, out_feature="last")
    return SimpleFeaturePyramid(vit, "last", 16, (4.0, 2.0, 1.0, 0.5))


@pytest.mark.filterwarnings("ignore:Importing from timm.models.layers:FutureWarning")
@pytest.mark.parametrize("make", [regnet, swin, mvit, simple_pyramid], ids=lambda f: f.__name__)
def test_fpt_over_any_detectron2_backbone(make: Callable[[], Backbone]) -> None:
    torch.manual_seed(0)
    bottom_up = make()
    features = list(bottom_up.output_shape())
    strides = pyramid_strides(bottom_up, features)
    assert list(strides.values()) == [4, 8, 16, 32]
    fpn = FPN(bottom_up, features, 16, top_block=LastLevelMaxPool()).eval()
    transform = PyramidTransform(strides, 16, channels=16)
    fpt = FPT(bottom_up, features, 16, transform=transform, top_block=LastLevelMaxPool()).eval()
    fpt.load_state_dict(fpn.state_dict(), strict=False)
    with torch.no_grad():
        for level, expected in fpn(image(64, 96)).items():
            torch.testing.assert_close(fpt(image(64, 96))[level], expected, rtol=1e-5, atol=1e-5)
    for fusion in fpt.fusions.values():
        for conv in fusion.fuse:
            nn.init.normal_(conv.weight, std=0.05)
    out = fpt.train()(image(64, 96))
    for level, shape in fpt.output_shape().items():
        assert out[level].shape == (1, 16, 64 // shape.stride, -(-96 // shape.stride)), level
    sum(x.square().sum() for x in out.values()).backward()
    assert [n for n, p in fpt.named_parameters() if p.grad is None and p.requires_grad] == []


# torchvision, timm


def torchvision_options(name: str, *layers: str) -> list:
    layers = layers or ("layer1", "layer2", "layer3", "layer4")
    return [
        *("MODEL.TRUNK.BUILDER", "build_torchvision_backbone", "MODEL.TRUNK.NAME", name),
        *("MODEL.TRUNK.LAYERS", list(layers)),
    ]


def test_torchvision_trunk_has_its_models_features() -> None:
    model = torchvision_trunk("resnet18", ["layer1", "layer2", "layer3", "layer4"]).eval()
    assert {n: (s.channels, s.stride) for n, s in model.output_shape().items()} == {
        "res2": (64, 4),
        "res3": (128, 8),
        "res4": (256, 16),
        "res5": (512, 32),
    }
    plain = torchvision.models.resnet18()
    plain.load_state_dict({k[len("body.") :]: v for k, v in model.state_dict().items()}, strict=False)
    x = image(70, 90)
    with torch.no_grad():
        out = model(x)
        expected = plain.eval().maxpool(plain.relu(plain.bn1(plain.conv1(x))))
        for n in (1, 2, 3, 4):
            expected = getattr(plain, f"layer{n}")(expected)
            torch.testing.assert_close(out[f"res{n + 1}"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "norm, kind", [("FrozenBN", FrozenBatchNorm2d), ("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm)]
)
def test_norm_of_a_torchvision_trunk(norm: str, kind: type) -> None:
    model = trunk(*torchvision_options("resnet18"), "MODEL.TRUNK.NORM", norm)
    assert {type(m) for m in model.modules() if "Norm" in type(m).__name__} == {kind}


def test_torchvision_trunk_under_fpt_by_config() -> None:
    layers = ("features.1", "features.3", "features.5", "features.7")
    model = build_backbone(small_config(RETINANET, *torchvision_options("convnext_tiny", *layers))).eval()
    assert isinstance(model.bottom_up, FeatureTrunk) and list(model.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    out = model(image(64, 100))
    assert out["p3"].shape == (1, 32, 8, 12) and out["p7"].shape == (1, 32, 1, 1)


@pytest.mark.parametrize(
    "options, message",
    [
        (("resnet19",), "MODEL.TRUNK: torchvision has no model 'resnet19'"),
        (("resnet18", "layer9"), r"resnet18 has no layers \['layer9'\]; some that it has: .*layer1"),
        (("resnet18", "layer1", "layer1.0"), "two features have stride 4"),
        (("resnet18", "avgpool"), r"feature 0 of the trunk is \(1, 512, 1, 1\) for images"),
        (("swin_t", "features.1"), r"\(1, 32, 64, 96\) for images \(1, 3, 128, 256\); it must be"),
    ],
)
def test_unfit_torchvision_trunk_is_named(options: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trunk(*torchvision_options(*options))


@pytest.mark.parametrize("builder", ["torchvision", "timm"])
def test_trunk_of_a_library_needs_its_name(builder: str) -> None:
    with pytest.raises(ValueError, match=f"TRUNK.NAME is ''; allowed: the name of a model, .*build_{builder}_backbone"):
        trunk("MODEL.TRUNK.BUILDER", f"build_{builder}_backbone")


@pytest.fixture
def cached_resnet18(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """torchvision's weights, where it keeps what it has downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = torchvision.models.resnet18()
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(model.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    return model


def test_pretrained_torchvision_trunk_warns_of_bgr(
    cached_resnet18: nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    opts = [*torchvision_options("resnet18"), "MODEL.TRUNK.PRETRAINED", True]
    model = trunk(*opts)
    assert torch.equal(model.state_dict()["body.layer1.0.conv1.weight"], cached_resnet18.layer1[0].conv1.weight)
    assert "resnet18 want INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]" in caplog.text
    caplog.clear()
    rgb = ["INPUT.FORMAT", "RGB", "MODEL.PIXEL_MEAN", [123.675, 116.28, 103.53]]
    trunk(*opts, *rgb, "MODEL.PIXEL_STD", [58.395, 57.12, 57.375])
    assert not caplog.text


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(ValueError, match=r"the weights of resnet18 cannot be fetched \(no network\): set it"):
        trunk(*torchvision_options("resnet18"), "MODEL.TRUNK.PRETRAINED", True)
    # which a trained model does not need
    trunk(*torchvision_options("resnet18"), "MODEL.TRUNK.PRETRAINED", True, "MODEL.WEIGHTS", "model_final.pth")


def test_without_timm_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "timm":
            raise ModuleNotFoundError("No module named 'timm'", name="timm")
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match="MODEL.TRUNK: the trunk 'resnet18' needs timm, which is not installed: pip"):
        trunk("MODEL.TRUNK.BUILDER", "build_timm_backbone", "MODEL.TRUNK.NAME", "resnet18")


@pytest.mark.parametrize("name, channels", [("resnet18", [64, 128, 256, 512]), ("efficientnet_b0", [24, 40, 112, 320])])
def test_timm_trunk(name: str, channels: list) -> None:
    timm = pytest.importorskip("timm")
    model = timm_trunk(name).eval()
    shapes = dict(zip(("res2", "res3", "res4", "res5"), channels))
    assert {n: s.channels for n, s in model.output_shape().items()} == shapes
    plain = timm.create_model(name, features_only=True).eval()
    plain.load_state_dict({k[len("body.") :]: v for k, v in model.state_dict().items()}, strict=False)
    with torch.no_grad():
        for ours, theirs in zip(model(image(70, 90)).values(), plain(image(70, 90))[1:]):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_timm_trunk_under_fpt_by_config() -> None:
    pytest.importorskip("timm")
    opts = ["MODEL.TRUNK.BUILDER", "build_timm_backbone", "MODEL.TRUNK.NAME", "efficientnet_b0"]
    out = build_backbone(small_config(RETINANET, *opts)).eval()(image(64, 100))
    assert out["p3"].shape == (1, 32, 8, 13) and out["p7"].shape == (1, 32, 1, 1)
    with pytest.raises(ValueError, match="timm has no model 'effnet'"):
        trunk(*opts[:3], "effnet")
    with pytest.raises(ValueError, match="the trunk cannot take images of any size, such as 128 x 256"):
        trunk(*opts[:3], "vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="two features have stride 16"):
        timm_trunk("vit_tiny_patch16_224", dynamic_img_size=True)


def test_a_trunk_of_ones_own_is_a_registered_name() -> None:
    cfg: CfgNode = small_config(RETINANET)
    assert torch.equal(
        trunk()(image(64, 64))["res5"], seeded(lambda: build_resnet_backbone(cfg, SHAPE).eval())(image(64, 64))["res5"]
    )


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make()
