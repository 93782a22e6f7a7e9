"""The fusion of a level with its branches: one convolution over the concatenation, whichever way it is computed."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_d2.core import (
    DropBlock,
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidNeck,
    PyramidTransform,
    RenderingTransformer,
    SelfTransformer,
    ValidSizes,
    fusion,
    reference,
)

from .cases import images, pyramid_features, randomize, relative_error, valid_sizes

STRIDES = {"p2": 4, "p3": 8, "p4": 16}
SIZES = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6)}
IMAGES, SMALL = (64, 96), (48, 32)
GT = partial(GroundingTransformer, num_parts=2)
Linear = LinearGroundingTransformer
Local = partial(LocalGroundingTransformer, square_size=3)
group_norm = partial(nn.GroupNorm, 2)
OPTIONS = [
    {},
    {"gt": Linear},
    {"gt": partial(Linear, norm=group_norm), "st": None},
    {"gt": Local},
    {"st": None, "gt": Linear, "rt": None},
    {"gt": partial(GT, max_kv_tokens=5), "rt": partial(RenderingTransformer, gate="authors")},
    {"use_checkpoint": True},
    {"fuse": "sum"},
    {"fuse": "sum", "gt": Linear, "min_stride": 8},
    {"min_stride": 16, "gt": partial(GT, max_kv_tokens=5)},
    {"min_stride": 8, "gt": Linear},
    {"min_stride": 8, "gt": Local},
]
PADDINGS = [None, valid_sizes(IMAGES, IMAGES, SMALL)]


def build(gt=GT, *, channels=4, norm=group_norm, out_channels=6, make_drop_block=None, **options):
    transform = PyramidTransform(STRIDES, 6, channels, gt=gt, **options)
    neck = PyramidNeck(transform, 6, out_channels, norm=norm, make_drop_block=make_drop_block)
    return randomize(neck.double())


def features(batch=2):
    return pyramid_features(SIZES, 6, batch=batch)


def textbook(neck, maps, valid):
    """The branches concatenated, with modules that are called."""
    branches = neck.transform(maps, valid)
    ratios = neck.transform.ratios
    return {n: reference.fuse(neck.fusion[n], x, branches.get(n), ratios[n]) for n, x in maps.items()}


def with_gradients(function, neck, valid):
    maps = {n: x.requires_grad_() for n, x in features().items()}
    out = function(maps, valid)
    parameters = [*maps.values(), *neck.parameters()]
    loss = sum(y.sin().sum() for y in out.values())
    return [*out.values(), *torch.autograd.grad(loss, parameters, materialize_grads=True)]


@pytest.mark.parametrize("norm", [None, group_norm, nn.BatchNorm2d])
@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_convolution_of_the_concatenation(options, norm):
    """Values and gradients, with the norm over the sum, in inference and in training."""
    neck = build(norm=norm, **options)
    for valid in PADDINGS:
        actual, expected = (with_gradients(f, neck, valid) for f in (neck, partial(textbook, neck)))
        for a, b in zip(actual, expected):
            assert relative_error(a, b) < 1e-11 or (a - b).abs().max() < 1e-11


@pytest.mark.parametrize("channels, groups", [(4, [[0], [1], [2]]), (3, [[0, 1], [2]]), (2, [[0, 1, 2]])])
def test_narrow_branches_go_side_by_side(channels, groups):
    neck = build(channels=channels, gt=partial(GT, num_parts=1), st=partial(SelfTransformer, num_parts=1))
    assert neck.fusion["p2"].branch_groups == groups
    assert [conv.in_channels for conv in neck.fusion["p2"].fuse] == [channels * len(group) for group in groups]
    maps = features()
    for n, y in neck(maps).items():
        assert relative_error(y, textbook(neck, maps, None)[n]) < 1e-12


def test_the_sum_is_the_concatenation_with_one_weight_for_all():
    wide, narrow, maps = build(), build(fuse="sum"), features()
    narrow.load_state_dict(wide.state_dict(), strict=False)
    for n, level in narrow.fusion.items():
        assert [conv.in_channels for conv in level.fuse] == [4]
        with torch.no_grad():
            for conv in wide.fusion[n].fuse:
                conv.weight.copy_(level.fuse[0].weight.repeat(1, conv.in_channels // 4, 1, 1))
    for n, y in narrow(maps).items():
        assert relative_error(y, wide(maps)[n]) < 1e-12


def test_a_level_finer_than_the_minimal_stride_gathers_at_it():
    """Without neighbours in the fusion, a position gets exactly what the mean of its cell gathers; others as ever."""
    plain, coarse, maps = build(norm=None), build(norm=None, min_stride=8), features()
    assert list(plain.state_dict()) == list(coarse.state_dict())
    for level in coarse.fusion.values():
        for conv in level.fuse:
            with torch.no_grad():
                conv.weight *= nn.functional.pad(torch.ones(1, 1), (1, 1, 1, 1))
    plain.load_state_dict(coarse.state_dict())
    expected, out = plain(maps), coarse(maps)
    assert torch.equal(out["p3"], expected["p3"]) and torch.equal(out["p4"], expected["p4"])
    assert relative_error(out["p2"], expected["p2"]) > 1e-3
    # A map that is the same within every cell is its own mean.
    maps["p2"] = maps["p3"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert relative_error(coarse(maps)["p2"], plain(maps)["p2"]) < 1e-12


def test_branches_start_at_zero_or_as_parts_of_one_convolution():
    def weights(zero_init):
        torch.manual_seed(0)
        branches = nn.ModuleList(nn.Identity() for _ in range(3))
        parts = fusion.Fusion(6, 6, branches, branch_channels=4, zero_init=zero_init).fuse
        return torch.cat([conv.weight for conv in parts], 1)

    assert weights(True).abs().max() == 0
    bound = (3 / (12 * 9)) ** 0.5  # kaiming_uniform_ with a=1 over the channels of all
    assert 0.98 * bound < weights(False).abs().max() <= bound


def test_without_branches_it_is_a_convolution():
    plain = fusion.Fusion(6, 5).double()
    x = features()["p3"]
    expected = nn.functional.conv2d(x, plain.weight, plain.bias, padding=1)
    assert torch.equal(plain(x), expected)
    assert set(plain.state_dict()) == {"weight", "bias"}


def test_drop_block_comes_last():
    neck, maps = build(make_drop_block=partial(DropBlock, 0.3, 3)), features()
    torch.manual_seed(0)
    out = neck(maps)
    torch.manual_seed(0)
    expected = {n: neck.fusion[n].drop_block(y) for n, y in textbook(neck, maps, None).items()}
    assert all(relative_error(out[n], expected[n]) < 1e-12 and (out[n] == 0).any() for n in maps)
    assert all((y != 0).all() for y in neck.eval()(maps).values())


# What hangs on a call of a module


@pytest.fixture
def folded(monkeypatch):
    """How many groundings were folded into a weight."""
    counts = []
    original = fusion.convolve_affine
    monkeypatch.setattr(
        fusion, "convolve_affine", lambda some, **options: counts.append(len(some)) or original(some, **options)
    )
    return counts


def test_linear_groundings_are_folded(folded):
    build(Linear)(features())
    assert folded == [2, 1]
    build(partial(Linear, norm=group_norm))(features())
    build(GT)(features())
    assert folded == [2, 1]


@pytest.mark.parametrize("gt", [GT, Linear])
@pytest.mark.parametrize("pre", [True, False])
def test_hooks_of_every_fused_convolution_and_linear_fire(gt, pre, folded):
    neck, called = build(gt), set()
    watched = [m for f in neck.fusion.values() for m in f.fuse]
    watched += [m for m in neck.transform.modules() if isinstance(m, nn.Linear)]
    for module in watched:
        register = module.register_forward_pre_hook if pre else module.register_forward_hook
        register(lambda module, *_: called.add(module))
    maps = features()
    out = neck(maps)
    assert called == set(watched) and folded == []
    unhooked = build(gt)(maps)
    assert all(relative_error(out[n], unhooked[n]) < 1e-12 for n in maps)


@pytest.mark.parametrize("place", ["fuse", "query", "branch"])
def test_a_hook_that_changes_an_output_changes_the_level(place):
    neck, maps, wanted = build(Linear), features(), build(Linear)
    branch = neck.transform.gt["p3_p4"]
    module = {"fuse": neck.fusion["p3"].fuse[1], "query": branch.query, "branch": branch}[place]
    module.register_forward_hook(lambda module, inputs, output: 2 * output)
    with torch.no_grad():
        other = wanted.transform.gt["p3_p4"]
        twice = {"fuse": [wanted.fusion["p3"].fuse[1].weight], "query": [*other.query.parameters()]}
        for p in twice.get(place, [*other.value.parameters()]):
            p.mul_(2)
    out, expected, before = neck(maps), wanted(maps), build(Linear)(maps)
    assert relative_error(out["p3"], expected["p3"]) < 1e-12 < 1e-3 < relative_error(out["p3"], before["p3"])


@pytest.mark.parametrize("gt", [GT, Linear])
@pytest.mark.parametrize(
    "wrap",
    [
        partial(prune.l1_unstructured, name="weight", amount=0.5),
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
)
def test_pruned_and_parametrised_weights_are_used(gt, wrap):
    """Those that the modules compute with, as the textbook reads them off."""
    neck, maps = build(gt).eval(), features()
    before = neck(maps)["p2"]
    for module in (neck.fusion["p2"].fuse[1], neck.transform.gt["p2_p3"].value):
        wrap(module)
        if wrap is parametrizations.weight_norm:
            module.parametrizations.weight.original0.data.mul_(1.5)
    neck.eval()
    out = neck(maps)["p2"]
    assert relative_error(out, textbook(neck, maps, None)["p2"]) < 1e-12
    assert relative_error(out, before) > 1e-2


def test_the_convolution_of_the_level_itself_can_be_pruned():
    neck, maps = build(), features()
    before = neck(maps)["p2"]
    prune.l1_unstructured(neck.fusion["p2"], "weight", amount=0.5)
    out = neck(maps)["p2"]
    assert relative_error(out, textbook(neck, maps, None)["p2"]) < 1e-12 and relative_error(out, before) > 1e-2


def test_a_wrapped_convolution_is_called():
    """As by a quantiser or an adapter: a module in the convolution's place."""
    neck, maps = build(Linear), features()
    neck.fusion["p2"].fuse[1] = nn.Sequential(neck.fusion["p2"].fuse[1], nn.ReLU())
    out = neck(maps)["p2"]
    assert torch.isfinite(out).all() and relative_error(out, build(Linear)(maps)["p2"]) > 1e-3


class Doubling(nn.Linear):
    """As an adapter in a linear map's place."""

    def forward(self, x):
        return 2 * super().forward(x)


class Negative(LinearGroundingTransformer):
    def transform(self, target, source):
        return -super().transform(target, source)


def test_what_computes_something_else_is_not_folded(folded):
    maps = features()
    adapted = build(Linear)
    for branch in adapted.transform.gt.values():
        branch.query = randomize(Doubling(4, 4).double())
    for neck in (adapted, build(Negative)):
        assert relative_error(neck(maps)["p2"], textbook(neck, maps, None)["p2"]) < 1e-12
    assert folded == []


# The whole neck


@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_of_no_images(options):
    """Forward and backward, with sizes and without."""
    neck = build(norm=group_norm, **options)
    for valid in (None, ValidSizes(IMAGES, torch.zeros(0, 2, dtype=torch.int64), [])):
        maps = {n: x.requires_grad_() for n, x in features(batch=0).items()}
        out = neck(maps, valid)
        assert {n: y.shape for n, y in out.items()} == {n: (0, 6, *size) for n, size in SIZES.items()}
        sum(y.sum() for y in out.values()).backward()
        assert all(x.grad is None or x.grad.shape == x.shape for x in maps.values())
        assert all(p.grad is None or not p.grad.any() for p in neck.parameters())


READS = ("tolist", "item", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__len__", "__array__")


@pytest.fixture
def reads(monkeypatch):
    """The names of the calls that wait for a device."""
    names, inside = [], []

    def counted(name, original):
        def call(self, *arguments, **options):
            if not inside and name != "__len__":
                names.append(name)
            inside.append(name)
            try:
                return original(self, *arguments, **options)
            finally:
                inside.pop()

        return call

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    return names


class ReadingOperators(TorchDispatchMode):
    """Operators whose result's size or value the processor waits for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in ("nonzero", "_local_scalar_dense", "masked_select", "is_nonzero", "unique", "repeat_interleave"):
            self.names.append(name)
        if name == "index" and any(t is not None and t.dtype == torch.bool for t in arguments[1]):
            self.names.append(name)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "gt", [partial(GT, max_kv_tokens=9), Linear, partial(LocalGroundingTransformer, square_size=3)]
)
def test_one_read_of_the_device_in_a_forward(gt, reads):
    neck = build(
        gt, st=partial(SelfTransformer, kv_stride=2, max_kv_tokens=9), make_drop_block=partial(DropBlock, 0.1, 3)
    )
    x, maps = images(IMAGES, IMAGES, SMALL), features()
    operators = ReadingOperators()
    with operators, torch.no_grad():
        neck(maps, ValidSizes.read(x))
    assert reads == ["tolist"] and operators.names == []


def test_a_neck_computes_without_data():
    """Of fake tensors nothing can be read: sizes and numbers of a forward and a backward follow from the shapes."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        neck = PyramidNeck(PyramidTransform(STRIDES, 6, 8, st=partial(SelfTransformer, max_kv_tokens=9)), 6, 6)
        maps = {n: torch.empty(2, 6, *size, requires_grad=True) for n, size in SIZES.items()}
        out = neck(maps, ValidSizes.of([IMAGES, SMALL], torch.empty(2, 3, *IMAGES)))
        sum(y.sum() for y in out.values()).backward()
        assert {n: y.shape for n, y in out.items()} == {n: (2, 6, *size) for n, size in SIZES.items()}
        assert all(p.grad.shape == p.shape for p in neck.parameters())


def test_every_parameter_learns_once_the_fusion_is_not_zero():
    neck = build()
    sum(y.sin().sum() for y in neck(features()).values()).backward()
    idle = [n for n, p in neck.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_an_image_does_not_depend_on_its_padding_but_for_the_border_of_the_fusion():
    """The fused convolution sees one position beyond the image, as FPN's does; without a norm that is all."""
    neck, maps = build(norm=None), features()
    together = neck(maps, PADDINGS[1])
    alone = neck({n: x[1:, :, : x.shape[2] * 3 // 4, : x.shape[3] // 3] for n, x in maps.items()})
    for n, y in alone.items():
        inside = y[:, :, :-1, :-1]
        assert relative_error(together[n][1:, :, : inside.shape[2], : inside.shape[3]], inside) < 1e-12
