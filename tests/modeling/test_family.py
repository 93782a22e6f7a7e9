"""FPT, FPN and BFP are one class with branches on or off; with a trunk that has borders; traced, copied, saved."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from detectron2 import modeling
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.structures import ImageList
from torch import Tensor, nn

from fpt_d2 import FPT
from fpt_d2.checkpoint.names import is_fpt
from fpt_d2.core import Level, ValidSizes

from .models import FASTER_RCNN, FPN_BUILDERS, RETINANET, patch_fpt, randomize, small_config

LEVELS = ("p2", "p3", "p4", "p5")


def build_backbone(*opts: object, name: str = FASTER_RCNN) -> FPT:
    torch.manual_seed(0)
    backbone: FPT = modeling.build_backbone(small_config(name, *opts)).eval()
    randomize(backbone)
    return backbone


def image(*size: int) -> Tensor:
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["build_resnet_fpt_backbone", "build_retinanet_resnet_fpt_backbone"])
def test_builders_are_registered(name: str) -> None:
    assert name in BACKBONE_REGISTRY


@pytest.mark.parametrize("name", FPN_BUILDERS)
def test_without_branches_it_has_fpns_parameters_and_values(name: str) -> None:
    ours = build_backbone("MODEL.FPT.BRANCHES", [], name=name)
    fpn = build_backbone("MODEL.BACKBONE.NAME", FPN_BUILDERS[name], name=name)
    assert type(fpn) is FPN and list(ours.state_dict()) == list(fpn.state_dict())
    ours.load_state_dict(fpn.state_dict())
    with torch.no_grad():
        for level, expected in fpn(image(96, 128)).items():
            assert torch.equal(ours(image(96, 128))[level], expected)


def test_bfp_is_fpn_with_a_bottom_up_path() -> None:
    bfp = build_backbone("MODEL.FPT.BRANCHES", [], "MODEL.FPT.PYRAMID", "bfp")
    assert [n for n, _ in bfp.named_parameters() if not n.startswith(("bottom_up", "fpn_"))] == [
        f"pyramid.down.p{n}.weight" for n in (3, 4, 5)
    ]
    with torch.no_grad():
        trunk, maps, above = bfp.bottom_up(image(96, 128)), {}, None
        for n in (5, 4, 3, 2):
            maps[n] = getattr(bfp, f"fpn_lateral{n}")(trunk[f"res{n}"])
            if above is not None:
                maps[n] = maps[n] + F.interpolate(above, scale_factor=2)
            above = maps[n]
        for n in (3, 4, 5):
            maps[n] = maps[n] + bfp.pyramid.down[f"p{n}"](maps[n - 1])
        out = bfp(image(96, 128))
        for n in (2, 3, 4, 5):
            torch.testing.assert_close(out[f"p{n}"], getattr(bfp, f"fpn_output{n}")(maps[n]), rtol=1e-5, atol=1e-5)
        assert torch.equal(out["p6"], F.max_pool2d(out["p5"], 1, stride=2))


@pytest.mark.parametrize("branches", [["st"], ["gt"], ["rt"], ["gt", "rt"], ["st", "gt", "rt"]])
def test_fusion_is_the_papers_convolution_over_the_concatenation(branches: list) -> None:
    fpt = patch_fpt(BRANCHES=branches)
    x = image(64, 96).double()
    source = fpt.source_pyramid(fpt.bottom_up(x))
    gathered, out = fpt.fpt(source), fpt(x)
    for level in LEVELS:
        output = getattr(fpt, f"fpn_output{level[1]}")
        assert (len(output.fuse) == 0) is (level not in gathered)
        concat = torch.cat([source[level], *([gathered[level]] if level in gathered else [])], 1)
        weight = torch.cat([output.weight, *(conv.weight for conv in output.fuse)], 1)
        torch.testing.assert_close(out[level], F.conv2d(concat, weight, output.bias, padding=1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name, features", [(RETINANET, ["res3", "res4", "res5"]), (FASTER_RCNN, ["res4", "res5"])])
def test_any_contiguous_levels(name: str, features: list) -> None:
    backbone = build_backbone("MODEL.FPN.IN_FEATURES", features, name=name)
    out = backbone(image(96, 160))
    assert list(out) == list(backbone.output_shape())
    for level, shape in backbone.output_shape().items():
        assert out[level].shape == (1, shape.channels, -(-96 // shape.stride), -(-160 // shape.stride))


def difference(model: nn.Module, small: Tensor, large: Tensor, level: str) -> float:
    """Of the small image's upper left quarter, alone and beside the large one, over the mean value there."""
    with torch.no_grad():
        alone, beside = (
            model(ImageList.from_tensors(batch, 32).tensor)[level][0] for batch in ([small], [small, large])
        )
    stride = model.output_shape()[level].stride
    inner = (slice(None), slice(0, small.shape[1] // stride // 2), slice(0, small.shape[2] // stride // 2))
    return float((alone[inner] - beside[inner]).abs().mean() / alone[inner].abs().mean())


def test_over_a_resnet_the_batch_changes_no_more_than_it_does_in_fpn() -> None:
    """A ResNet's own convolutions see the end of the canvas, in FPN too; without masks attention sees all of it."""
    fpt = build_backbone()
    small, large = image(100, 140)[0], image(170, 200)[0]
    with torch.no_grad():  # laterals of unit size, as after training: far larger ones would make every softmax hard
        features = fpt.bottom_up(small[None])
        for feature, lateral in zip(reversed(fpt.in_features), fpt.lateral_convs):
            lateral.weight /= lateral(features[feature]).std()
    fpn = build_backbone("MODEL.FPT.BRANCHES", [])
    fpn.load_state_dict({k: v for k, v in fpt.state_dict().items() if not is_fpt(k)})
    blind = copy.deepcopy(fpt)
    blind.read_padding = False
    for level in ("p2", "p3", "p4"):
        ours, theirs, without_masks = (difference(model, small, large, level) for model in (fpt, fpn, blind))
        assert ours < 2.5 * theirs < 0.1 and without_masks > 3 * ours, level


def test_levels_without_any_padding_and_with_nothing_but_padding_beside_it_stay_finite() -> None:
    """An image of one pixel is one position of every level; all others are padding."""
    model = patch_fpt()
    batch = ImageList.from_tensors([torch.ones(3, 1, 1).double(), image(64, 64)[0].double()], 32)
    source = model.source_pyramid(model.bottom_up(batch.tensor))
    valid = ValidSizes.read(batch.tensor)
    assert [int(Level.of(x, valid).mask[0].sum()) for x in source.values()] == [1, 1, 1, 1]
    assert all(x.isfinite().all() for x in model(batch.tensor).values())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("max_kv_tokens", [0, 10])  # 10: fewer than p2 to p4 have, and of a grid that follows the size
def test_one_trace_serves_two_sizes_and_batches(max_kv_tokens: int) -> None:
    backbone = build_backbone("MODEL.FPT.MAX_KV_TOKENS", max_kv_tokens)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, image(64, 96), strict=False)
        for size, batch in (((64, 96), 1), ((96, 128), 1), ((128, 64), 3)):
            x = image(*size).repeat(batch, 1, 1, 1)
            x[:, :, size[0] // 2 :] = 0  # half of it padding
            for level, expected in backbone(x).items():
                torch.testing.assert_close(traced(x)[level], expected, rtol=1e-4, atol=1e-4)


def test_copies_and_pickles_give_the_same_features() -> None:
    backbone = build_backbone("MODEL.FPT.PYRAMID", "bfp", "MODEL.FPT.NORM", "GN", "MODEL.FPT.BRANCH_CHANNELS", 32)
    saved = io.BytesIO()
    torch.save(backbone, saved)
    saved.seek(0)
    copies = [copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), torch.load(saved, weights_only=False)]
    with torch.no_grad():
        expected = backbone(image(64, 64))
        for other in copies:
            assert all(torch.equal(x, expected[level]) for level, x in other(image(64, 64)).items())


def test_drop_block_acts_in_training_only() -> None:
    backbone = build_backbone("MODEL.FPT.DROP_BLOCK_PROB", 0.3)
    with torch.no_grad():
        whole, dropped = backbone(image(64, 64)), backbone.train()(image(64, 64))
    for level in LEVELS[:3]:
        assert (whole[level] != 0).all() and 0.1 < (dropped[level] == 0).float().mean() < 0.45


@pytest.mark.parametrize(
    "opts",
    [
        ["MODEL.FPT.GT_SQUARE_SIZE", 3, "MODEL.FPT.CHECKPOINT", True],
        [
            "MODEL.FPT.MAX_KV_TOKENS",
            10,
            "MODEL.FPT.NORM",
            "GN",
            "MODEL.FPT.BRANCH_CHANNELS",
            32,
            "MODEL.FPT.DROP_BLOCK_PROB",
            0.1,
        ],
        ["MODEL.FPT.GT_SIMILARITY", "dot", "MODEL.FPT.KV_STRIDE", 2],
    ],
    ids=str,
)
def test_bfloat16_training_step_is_finite(opts: list) -> None:
    backbone = build_backbone(*opts).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = backbone(image(96, 128))
    sum(x.float().square().mean() for x in out.values()).backward()
    for name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
