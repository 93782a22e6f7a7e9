"""FPT's fusion in a model: it starts as FPN with any norm, norms the sum, and is made of modules that are called."""

from __future__ import annotations

import pytest
import torch
from detectron2.export import scripting_with_instances
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from fpt_d2 import FPT
from fpt_d2.core import reference

from .models import FASTER_RCNN, FPN_BUILDERS, randomize, small_config

LEVELS = ("p2", "p3", "p4", "p5")


def backbone(*opts: object, random: bool = True) -> FPT:
    torch.manual_seed(0)
    model: FPT = build_backbone(small_config(FASTER_RCNN, *opts)).eval()
    if random:
        randomize(model)
    return model


def images(batch: int = 2, *, padded: bool = True) -> Tensor:
    x = torch.randn(batch, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    if padded:
        x[1:, :, 60:], x[1:, :, :, 75:] = 0, 0
    return x


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", ["", "GN", "BN"])
def test_zero_start_is_detectron2s_fpn_whatever_the_norm(norm: str, training: bool, padded: bool) -> None:
    opts = ["MODEL.FPN.NORM", norm, "MODEL.FPT.NORM", norm, "MODEL.FPT.BRANCH_CHANNELS", 32]
    fpt = backbone(*opts, random=False)
    fpn = backbone(*opts, "MODEL.BACKBONE.NAME", FPN_BUILDERS[FASTER_RCNN], random=False)
    for module in fpn.modules():  # norms that are not the identity
        if isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 2), nn.init.normal_(module.bias)
    assert not fpt.load_state_dict(fpn.state_dict(), strict=False).unexpected_keys
    with torch.no_grad():
        ours, theirs = fpt.train(training)(images(padded=padded)), fpn.train(training)(images(padded=padded))
    assert list(ours) == list(theirs)
    for level, expected in theirs.items():
        assert (ours[level] - expected).abs().max() <= 1e-6 * expected.abs().max(), level
    statistics = {n: x for n, x in fpn.state_dict().items() if "running" in n and n.startswith("fpn_")}
    assert bool(statistics) is (norm == "BN")
    for name, expected in statistics.items():
        torch.testing.assert_close(fpt.state_dict()[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm", ["GN", "BN"])
def test_the_sum_is_normed(norm: str, padded: bool) -> None:
    model = backbone("MODEL.FPN.NORM", norm).double()
    x, sizes = images(padded=padded).double(), None
    with torch.no_grad():
        source = model.source_pyramid(model.bottom_up(x))
        if padded:
            sizes = {}
            for level, map in source.items():
                stride = 96 // map.shape[2]
                sizes[level] = [(map.shape[2], map.shape[3]), (-(-60 // stride), -(-75 // stride))]
        gathered = reference.pyramid_transform(model.fpt, source, sizes)
        for level, out in model(x).items():
            if level in LEVELS:
                fusion = model.fusions[level]
                expected = reference.fuse(fusion, source[level], gathered[level])
                apart = reference.fuse(fusion, source[level], torch.zeros_like(gathered[level]))
                torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
                assert (out - apart).abs().max() > 1e-3


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])  # "dot" is folded where nothing hangs on its modules
def test_hooks_on_what_fuses_fire(similarity: str) -> None:
    model = backbone("MODEL.FPT.GT_SIMILARITY", similarity)
    with torch.no_grad():
        expected = model(images())
    modules = [model.fpn_output2, *model.fpn_output2.fuse, model.fpt.gt["p2_p4"], model.fpt.gt["p2_p4"].key]
    seen: list[nn.Module] = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, out: seen.append(module))
    with torch.no_grad():
        out = model(images())
    assert sorted(map(id, seen)) == sorted(map(id, modules))
    for level in LEVELS:
        torch.testing.assert_close(out[level], expected[level], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
def test_pruning_and_parametrisations_of_what_fuses_work(similarity: str) -> None:
    model = backbone("MODEL.FPT.GT_SIMILARITY", similarity)
    with torch.no_grad():
        trunk = model.bottom_up(images())
        x = model.source_pyramid(trunk)["p2"]
        whole = model(images())["p2"]
        for conv in model.fpn_output2.fuse:
            prune.custom_from_mask(conv, "weight", torch.zeros_like(conv.weight))
        out = model(images())["p2"]
        plain = nn.functional.conv2d(x, model.fpn_output2.weight, model.fpn_output2.bias, padding=1)
        assert (whole - plain).abs().max() > 1e-2
        torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
        prune.custom_from_mask(model.fpn_output2, "weight", torch.zeros_like(model.fpn_output2.weight))
        assert not model(images())["p2"].any()
        for conv in model.fpn_output2.fuse:
            prune.remove(conv, "weight")
            nn.init.ones_(conv.weight)

            class Zero(nn.Module):
                def forward(self, weight: Tensor) -> Tensor:
                    return 0 * weight

            parametrize.register_parametrization(conv, "weight", Zero())
        assert not model(images())["p2"].any()


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
@pytest.mark.parametrize("opts", [[], ["MODEL.FPT.MAX_KV_TOKENS", 9]], ids=str)
def test_batch_of_no_images(similarity: str, opts: list) -> None:
    model = backbone("MODEL.FPT.GT_SIMILARITY", similarity, *opts).train()
    out = model(images(0))
    for level, shape in model.output_shape().items():
        assert out[level].shape == (0, 32, -(-96 // shape.stride), -(-128 // shape.stride))
    sum(x.sum() for x in out.values()).backward()
    used = [p for n, p in model.named_parameters() if n.startswith("fpn_")]
    assert all(p.grad is not None and not p.grad.any() for p in used)


@pytest.mark.parametrize("branches", [[], ["st", "gt", "rt"]], ids=str)
def test_scripting_says_what_to_do_instead(branches: list) -> None:
    model = backbone("MODEL.FPT.BRANCHES", branches)
    words = r"FPT cannot be scripted: .*[Tt]race it .*torch\.export"
    with pytest.raises(NotImplementedError, match=words):
        torch.jit.script(model)
    with pytest.raises(NotImplementedError, match=words):
        scripting_with_instances(model, {"proposal_boxes": Boxes})
