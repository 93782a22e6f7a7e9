"""Source pyramids and branches: those that there are, those of one's own, and a backbone in the place of a pyramid."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from fpt_d2 import FPT
from fpt_d2.core import Level, reference
from fpt_d2.core.control import WithoutAttention
from fpt_d2.errors import ConfigError
from fpt_d2.modeling import FPT_BRANCH_REGISTRY, FPT_PYRAMID_REGISTRY, BiFPN, PyramidFPT, build_transform, reads

from .models import FASTER_RCNN, RETINANET, randomize, small_config

BIFPN = ["MODEL.FPT.PYRAMID", "build_resnet_bifpn_backbone", "MODEL.FPN.OUT_CHANNELS", 64]


def image(batch: int = 1, *size: int) -> Tensor:
    return torch.randn(batch, 3, *(size or (64, 96)), generator=torch.Generator().manual_seed(1))


def backbone(*opts: object, name: str = FASTER_RCNN) -> FPT:
    torch.manual_seed(0)
    model: FPT = build_backbone(small_config(name, *opts)).eval()
    randomize(model)
    return model


def sources(model: FPT, laterals: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """What each pyramid makes of the laterals, written out."""
    names = list(laterals)
    fpn = {names[-1]: laterals[names[-1]]}
    for finer, coarser in zip(names[-2::-1], names[::-1]):
        fpn[finer] = laterals[finer] + F.interpolate(fpn[coarser], scale_factor=2)
    bfp = {names[0]: fpn[names[0]]}
    for finer, coarser in zip(names, names[1:]):
        if hasattr(model.pyramid, "down"):
            weight = model.pyramid.down[coarser].weight
            bfp[coarser] = fpn[coarser] + F.conv2d(bfp[finer], weight, stride=2, padding=1)
    return {"lateral": laterals, "fpn": fpn, "bfp": bfp}


@pytest.mark.parametrize("pyramid", ["lateral", "fpn", "bfp"])
@pytest.mark.parametrize("name", [FASTER_RCNN, RETINANET])
def test_transform_and_outputs_read_the_pyramid(pyramid: str, name: str) -> None:
    model = backbone("MODEL.FPT.PYRAMID", pyramid, name=name).double()
    with torch.no_grad():
        x = image(2).double()
        trunk = model.bottom_up(x)
        laterals = {
            f"p{f[-1]}": getattr(model, f"fpn_lateral{f[-1]}")(trunk[f]) for f in trunk if f in model.in_features
        }
        source, out = sources(model, laterals)[pyramid], model(x)
        gathered = reference.pyramid_transform(model.fpt, source)
        assert set(source) == set(model.levels)
        for level in model.levels:
            expected = reference.fuse(model.fusions[level], source[level], gathered[level])
            torch.testing.assert_close(out[level], expected, rtol=1e-10, atol=1e-10)


def test_lateral_has_fpns_parameters_and_no_top_down_path() -> None:
    opts = ["MODEL.FPT.BRANCHES", []]
    fpn, lateral = backbone(*opts), backbone(*opts, "MODEL.FPT.PYRAMID", "lateral")
    assert list(lateral.state_dict()) == list(fpn.state_dict())
    with torch.no_grad():
        ours, theirs = lateral(image()), fpn(image())
    torch.testing.assert_close(ours["p5"], theirs["p5"])
    assert (ours["p2"] - theirs["p2"]).abs().max() > 0.01


# A backbone by its name


def test_fpt_over_bifpn_has_its_levels_and_starts_as_the_output_convolutions_alone() -> None:
    torch.manual_seed(0)
    model = build_backbone(small_config(FASTER_RCNN, *BIFPN)).eval()
    assert type(model) is PyramidFPT and type(model.bottom_up) is BiFPN and model.size_divisibility == 32
    out = model(image(2))
    assert list(out) == list(model.output_shape()) == ["p2", "p3", "p4", "p5", "p6"]
    for level, shape in model.output_shape().items():
        stride = 2 ** int(level[1])
        assert (shape.channels, shape.stride) == (64, stride)
        assert out[level].shape == (2, 64, -(-64 // stride), -(-96 // stride))
    source = model.bottom_up(image(2))
    for level, x in source.items():
        fusion = model.fpt_output[level]
        expected = F.conv2d(x, fusion.weight, fusion.bias, padding=1)
        torch.testing.assert_close(out[level], expected, rtol=1e-6, atol=1e-6)
    randomize(model)
    assert all((model(image(2))[level] - x).abs().max() > 1e-3 for level, x in out.items())


@pytest.mark.parametrize("norm", ["", "GN"])
def test_outputs_over_bifpn_are_the_papers_fusion(norm: str) -> None:
    torch.manual_seed(0)
    model = build_backbone(small_config(FASTER_RCNN, *BIFPN, "MODEL.FPN.NORM", norm)).eval().double()
    randomize(model)
    with torch.no_grad():
        x = image(2).double()
        source, out = model.bottom_up(x), model(x)
        gathered = reference.pyramid_transform(model.fpt, source)
        for level in source:
            expected = reference.fuse(model.fpt_output[level], source[level], gathered[level])
            torch.testing.assert_close(out[level], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name, builder",
    [(FASTER_RCNN, "build_resnet_bifpn_backbone"), (RETINANET, "build_retinanet_resnet_bifpn_backbone")],
)
def test_detector_over_bifpn_trains_every_parameter(name: str, builder: str) -> None:
    torch.manual_seed(0)
    model = build_model(small_config(name, *BIFPN, "MODEL.FPT.PYRAMID", builder)).train()
    randomize(model)
    target = Instances((96, 128), gt_boxes=Boxes([[10.0, 12.0, 70.0, 80.0]]), gt_classes=torch.tensor([1]))
    with EventStorage():
        losses = model([{"image": torch.rand(3, 96, 128) * 255, "instances": target}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    unused = [n for n, p in model.backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == [] and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_padding_is_read_over_a_backbone_too() -> None:
    torch.manual_seed(0)
    model = build_backbone(small_config(FASTER_RCNN, *BIFPN)).eval()
    randomize(model)
    x = image(1, 128, 128)
    x[:, :, 64:] = 0
    masked, model.read_padding = model(x), False
    assert (model(x)["p2"] - masked["p2"]).abs().max() > 1e-4


@pytest.mark.parametrize(
    "opts, message",
    [
        (
            ["MODEL.FPT.PYRAMID", "panet"],
            r"^MODEL\.FPT\.PYRAMID is 'panet'; allowed: 'lateral', 'fpn' or 'bfp', or the n",
        ),
        (["MODEL.FPT.PYRAMID", "build_resnet_fpt_backbone"], "PYRAMID is 'build_resnet_fpt_backbone', which is FPT it"),
        (["MODEL.FPT.PYRAMID", "build_retinanet_resnet_fpt_backbone"], "which is FPT itself"),
        (
            ["MODEL.FPT.PYRAMID", "build_resnet_backbone"],
            "'build_resnet_backbone'; allowed: levels of one width, it has",
        ),
        ([*BIFPN, "MODEL.FPT.KV_STRIDE", 0], r"^MODEL\.FPT\.KV_STRIDE is 0; allowed: 1 or more$"),
        (
            [*BIFPN, "MODEL.FPT.DROP_BLOCK_SIZE", 2],
            r"^MODEL\.FPT\.DROP_BLOCK_SIZE is 2; allowed: an odd number above 0$",
        ),
        ([*BIFPN, "MODEL.FPN.NORM", "XN"], r"^MODEL\.FPN\.NORM is 'XN'; allowed: ''"),
    ],
)
def test_unfit_pyramid_is_named(opts: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_backbone(small_config(FASTER_RCNN, *opts))


def test_levels_of_several_widths_are_refused() -> None:
    trunk = build_backbone(small_config(FASTER_RCNN, "MODEL.BACKBONE.NAME", "build_resnet_backbone"))
    with pytest.raises(ValueError, match="they must be of one width"):
        PyramidFPT(trunk, 16)


# Of one's own


@pytest.fixture
def register() -> Iterator[Callable[[Registry, str, object], None]]:
    """Register under a name until the end of the test."""
    done: list[tuple[Registry, str]] = []

    def add(registry: Registry, name: str, obj: object) -> None:
        registry._do_register(name, obj)
        done.append((registry, name))

    yield add
    for registry, name in done:
        del registry._obj_map[name]


class Scaled(nn.Module):
    """A branch: the target, times one number, plus the mean of the source."""

    def __init__(self, channels: int, num_halvings: int = 0) -> None:
        super().__init__()
        self.weight, self.num_halvings = nn.Parameter(torch.full((channels, 1, 1), 2.0)), num_halvings

    def forward(self, target: Level, source: Level) -> Tensor:
        return target.without_padding(target.map * self.weight + source.mean)


@pytest.mark.parametrize("source, kind", [("own", "st"), ("coarser", "gt"), ("finer", "rt")])
def test_branch_of_ones_own(source: str, kind: str, register: Callable) -> None:
    @reads(source)
    def scaled(cfg: CfgNode, channels: int, **options: int) -> nn.Module:
        assert cfg.MODEL.FPT.BRANCHES == ["scaled"] and channels == 16
        return Scaled(channels, **options)

    register(FPT_BRANCH_REGISTRY, "scaled", scaled)
    model = backbone("MODEL.FPT.BRANCHES", ["scaled"]).double()
    branches = getattr(model.fpt, kind)
    assert len(branches) == (4 if source == "own" else 6) and all(isinstance(b, Scaled) for b in branches.values())
    assert [b.num_halvings for b in branches.values()] == (
        [1, 2, 1, 3, 2, 1] if source == "finer" else [0] * len(branches)
    )
    x = image(2).double()
    x[1, :, 32:] = 0
    out, maps = model(x), model.source_pyramid(model.bottom_up(x))
    reduced = {n: model.fpt.reduce[n](m).detach() for n, m in maps.items()}
    rows = {n: -(-32 // 2 ** int(n[1])) for n in maps}
    for level in maps:
        parts = []
        for name in branches:
            target, _, read = name.partition("_")
            if target == level:
                read = read or target
                mean = torch.stack([reduced[read][0].mean((1, 2)), reduced[read][1, :, : rows[read]].mean((1, 2))])
                part = 2 * reduced[level] + mean[:, :, None, None]
                part[1, :, rows[level] :] = 0
                parts.append(part)
        expected = reference.fuse(model.fusions[level], maps[level], torch.cat(parts, 1) if parts else None)
        torch.testing.assert_close(out[level], expected, rtol=1e-10, atol=1e-10)
    sum(y.sum() for y in out.values()).backward()
    assert all(p.grad is not None for p in branches.parameters())


def test_branch_of_ones_own_beside_ours(register: Callable) -> None:
    register(FPT_BRANCH_REGISTRY, "scaled", reads("own")(lambda cfg, channels: Scaled(channels)))
    model = backbone("MODEL.FPT.BRANCHES", ["scaled", "gt", "rt"])
    assert isinstance(model.fpt.st["p2"], Scaled) and len(model.fpt.gt) == len(model.fpt.rt) == 6
    assert all(x.isfinite().all() for x in model(image()).values())


def test_controls_take_the_place_of_attention() -> None:
    for suffix in ("conv", "mean"):
        model = backbone("MODEL.FPT.BRANCHES", [f"st_{suffix}", f"gt_{suffix}", "rt"], "MODEL.FPT.NORM", "BN")
        branches = [*model.fpt.st.values(), *model.fpt.gt.values()]
        assert all(isinstance(b, WithoutAttention) and b.norm is not None for b in branches) and len(branches) == 10
        sum(x.sum() for x in model(image()).values()).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_branches_that_are_unknown_or_in_one_place_are_named(register: Callable) -> None:
    register(FPT_BRANCH_REGISTRY, "scaled", reads("coarser")(lambda cfg, channels: Scaled(channels)))
    for branches, message in (
        (["st", "xt"], r"^MODEL\.FPT\.BRANCHES is \['st', 'xt'\]; allowed: any of 'st', 'gt', 'rt', .* or 'scaled'$"),
        (["gt", "scaled"], r"^MODEL\.FPT\.BRANCHES is \['gt', 'scaled'\]; allowed: one that reads coarser levels$"),
        (["st", "st"], r"^MODEL\.FPT\.BRANCHES is \['st', 'st'\]; allowed: one that reads own levels$"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_backbone(small_config(FASTER_RCNN, "MODEL.FPT.BRANCHES", branches))
    with pytest.raises(ValueError, match="source is 'all'; allowed: 'own', 'coarser' or 'finer'"):
        reads("all")


def test_pyramid_of_ones_own(register: Callable) -> None:
    class Doubled(nn.Module):
        def __init__(self, levels: list[str]) -> None:
            super().__init__()
            self.factor = nn.ParameterDict({n: nn.Parameter(torch.tensor(2.0)) for n in levels})

        def forward(self, laterals: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: x * self.factor[n] for n, x in laterals.items()}

    def make(cfg: CfgNode, strides: dict[str, int]) -> nn.Module:
        assert dict(strides) == {"p2": 4, "p3": 8, "p4": 16, "p5": 32} and cfg.MODEL.FPT.PYRAMID == "doubled"
        return Doubled(list(strides))

    register(FPT_PYRAMID_REGISTRY, "doubled", make)
    model, lateral = backbone("MODEL.FPT.PYRAMID", "doubled"), backbone("MODEL.FPT.PYRAMID", "lateral")
    lateral.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        trunk = model.bottom_up(image())
        for level, x in lateral.source_pyramid(trunk).items():
            assert torch.equal(model.source_pyramid(trunk)[level], 2 * x)
    sum(x.sum() for x in model(image()).values()).backward()
    assert all(p.grad is not None for p in model.pyramid.parameters())


def test_transform_from_a_config_for_levels_of_ones_own() -> None:
    cfg = small_config(FASTER_RCNN, "MODEL.FPT.BRANCH_CHANNELS", 8)
    transform = build_transform(cfg, {"c3": 8, "c4": 16}, 12)
    maps = {"c3": torch.randn(1, 12, 8, 8), "c4": torch.randn(1, 12, 4, 4)}
    assert {n: x.shape for n, x in transform(maps).items()} == {"c3": (1, 16, 8, 8), "c4": (1, 16, 4, 4)}
    cfg.MODEL.FPT.BRANCHES = []
    assert build_transform(cfg, {"c3": 8, "c4": 16}, 12) is None


def test_registries_are_named_as_the_keys_say() -> None:
    assert {name for name, _ in FPT_PYRAMID_REGISTRY} == {"lateral", "fpn", "bfp"}
    controls = {"st_conv", "gt_conv", "st_mean", "gt_mean"}
    assert {name for name, _ in FPT_BRANCH_REGISTRY} == {"st", "gt", "rt"} | controls
    assert "build_resnet_bifpn_backbone" in BACKBONE_REGISTRY
