"""3x3 convolutions by Winograd's algorithm: right for every size, and taken only where nothing else is asked for."""

from __future__ import annotations

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_d2.core import (
    GroundingTransformer,
    LinearGroundingTransformer,
    PyramidNeck,
    PyramidTransform,
    RenderingTransformer,
    ValidSizes,
    fusion,
    winograd,
)
from fpt_d2.core.winograd import convolve, winograd_conv3x3

from .cases import images, pyramid_features, randomize, relative_error

PROMISE = 1e-4
USUAL = 1e-5  # of data as they come, which the config key's comment states
LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conv_2d(inside=4, outside=6, size=3, padding=1, **options):
    return randomize(nn.Conv2d(inside, outside, size, padding=padding, **options)).requires_grad_(False)


@pytest.fixture
def forced(monkeypatch):
    """Taken at any size. The shapes of the maps that were convolved."""
    shapes = []

    def spy(x, *arguments, **options):
        if not torch.is_grad_enabled():  # or it is called again, by autograd
            shapes.append(tuple(x.shape))
        return winograd_conv3x3(x, *arguments, **options)

    monkeypatch.setattr(winograd, "MIN_CHANNELS", 0)
    monkeypatch.setattr(winograd, "MIN_WORK", 0)
    for place in (winograd, fusion):
        monkeypatch.setattr(place, "winograd_conv3x3", spy)
    return shapes


# The algorithm


def error(x, weight, bias=None, **options):
    expected = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=1)
    if "add_to" in options:
        expected += options["add_to"].double()
    with torch.no_grad():
        actual = winograd_conv3x3(x, weight, bias, **options)
    assert actual.shape == expected.shape and actual.dtype == torch.float32
    return relative_error(actual, expected)


SIZES = [(1, 1), (1, 9), (6, 2), (3, 4), (4, 4), (5, 8), (8, 5), (13, 21), (1, 70), (25, 42), (64, 48)]


@pytest.mark.parametrize("block", [1, 6, winograd.BLOCK])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_convolution(size, layout, block, monkeypatch):
    """Also cut into many blocks, of one tile and of parts of a row."""
    monkeypatch.setattr(winograd, "BLOCK", block)
    x = draw(2, 5, *size).to(memory_format=LAYOUTS[layout])
    weight, bias = draw(3, 5, 3, 3, seed=1), draw(3, seed=2)
    assert error(x, weight) < USUAL
    assert error(x, weight, bias) < USUAL
    for y in LAYOUTS.values():
        assert error(x, weight, bias, add_to=draw(2, 3, *size, seed=3).to(memory_format=y)) < USUAL


@pytest.mark.parametrize("channels", [(1, 1), (1, 40), (40, 1), (64, 64), (256, 256), (1024, 256)])
@pytest.mark.parametrize("kind", ["plain", "offset", "large", "small", "positive"])
def test_equals_it_for_many_channels_and_features_of_any_scale(channels, kind):
    x, weight = draw(1, channels[0], 17, 30), draw(channels[1], channels[0], 3, 3, seed=1) / channels[0] ** 0.5
    features = {"plain": x, "offset": x + 10, "large": 1e3 * x, "small": 1e-3 * x, "positive": x.relu() * x.exp()}
    assert error(features[kind], weight) < USUAL
    assert error(features[kind], 1e-3 * weight + 1e-2) < PROMISE


def test_of_any_strides():
    """A crop, every second position, turned by a quarter, an image repeated, some of the channels, one repeated."""
    x, weight = draw(2, 5, 20, 24), draw(3, 5, 3, 3, seed=1)
    last = x.to(memory_format=torch.channels_last)
    views = [x[:, :, 3:, 5:18], x[..., ::2], x.transpose(2, 3), x[:1].expand(3, -1, -1, -1), draw(2, 9, 8, 8)[:, 1:6]]
    views += [last[:, :, 3:, 5:18], last[..., ::2], last.transpose(2, 3), last[1:], x[:, :1].expand(-1, 5, -1, -1)]
    assert all(error(view, weight) < USUAL for view in views)
    assert error(x, weight.transpose(2, 3)) < USUAL
    assert error(x, weight.to(memory_format=torch.channels_last)) < USUAL
    whole = torch.zeros(2, 7, 30, 30)
    place = whole[:, 2:5, 4:24, 1:25]
    with torch.no_grad():
        assert winograd_conv3x3(x, weight, add_to=place) is place
    assert relative_error(place, F.conv2d(x, weight, padding=1)) < USUAL
    place.zero_()
    assert not whole.any()


def test_a_map_is_laid_out_as_its_input():
    weight = draw(6, 4, 3, 3)
    with torch.no_grad():
        for layout in LAYOUTS.values():
            x = draw(2, 4, 9, 8).to(memory_format=layout)
            assert winograd_conv3x3(x, weight).is_contiguous(memory_format=layout)


def test_a_batch_of_no_images():
    assert winograd_conv3x3(draw(0, 4, 9, 8), draw(6, 4, 3, 3)).shape == (0, 6, 9, 8)


class Largest(TorchDispatchMode):
    """The most bytes of one storage that an operator returns."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **(options or {}))
        if isinstance(out, torch.Tensor) and all(out.untyped_storage()._cdata != t for t in self.given):
            self.bytes = max(self.bytes, out.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize("size", [(8, 2000), (2000, 8), (128, 125)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_buffers_do_not_grow_with_the_map(size, layout, monkeypatch):
    monkeypatch.setattr(winograd, "BLOCK", 16)
    x, weight = draw(1, 8, *size).to(memory_format=LAYOUTS[layout]), draw(8, 8, 3, 3)
    out = torch.zeros_like(x)
    with Largest() as largest, torch.no_grad():
        largest.given = [t.untyped_storage()._cdata for t in (x, out)]
        winograd_conv3x3(x, weight, add_to=out)
    assert largest.bytes == 2 * 36 * 16 * 8 * 4 < x.nbytes / 3


# Where it is taken


def test_where_it_is_faster():
    def taken(inside, outside, height, width):
        return winograd.is_faster(torch.Size((1, inside, height, width)), torch.Size((outside, inside, 3, 3)))

    assert all(taken(256, 256, *size) for size in ((200, 336), (100, 168), (50, 84), (25, 42)))
    assert all(taken(128, 128, *size) for size in ((200, 336), (100, 168), (50, 84)))
    assert not any(taken(64, 64, *size) for size in ((200, 336), (25, 42)))
    assert not taken(128, 128, 25, 42) and not taken(256, 256, 13, 21) and not taken(1, 256, 200, 336)


def test_small_maps_are_left_to_the_module():
    conv, x = conv_2d(), draw(1, 4, 8, 8)
    with torch.no_grad():
        assert torch.equal(convolve(conv, x), conv(x))


def same(conv, x):
    """Whether what is computed is, to the last bit, what a call of the module is."""
    return torch.equal(convolve(conv, x), conv(x))


def test_in_inference_it_is_taken(forced):
    """Without which the tests below would show nothing."""
    conv, x = conv_2d(), draw(2, 4, 9, 8)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            assert relative_error(convolve(conv.train(), x), conv(x)) < USUAL
            assert relative_error(convolve(conv, x, add_to=conv(x)), 2 * conv(x)) < USUAL
    assert len(forced) == 4


def gradients(function, tensors, weights, **options):
    return torch.autograd.grad((function(*tensors) * weights).sum(), tensors, **options)


def convolution(x, weight, bias):
    return F.conv2d(x, weight, bias, padding=1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_in_training_its_gradients_are_those_of_the_convolution(size, layout, forced):
    tensors = draw(2, 4, *size).to(memory_format=LAYOUTS[layout]), draw(6, 4, 3, 3, seed=1), draw(6, seed=2)
    weights, tensors = draw(2, 6, *size, seed=3), [t.requires_grad_() for t in tensors]
    expected = gradients(convolution, [t.double() for t in tensors], weights)
    assert all(relative_error(*g) < USUAL for g in zip(gradients(winograd_conv3x3, tensors, weights), expected))
    assert forced == [(2, 4, *size), (2, 6, *size)]  # by itself, and for the gradient of its input

    def added(*tensors):
        return winograd_conv3x3(*tensors, add_to=weights.clone())

    assert all(relative_error(*g) < USUAL for g in zip(gradients(added, tensors, weights), expected))


@pytest.mark.parametrize("needed", [(0,), (1,), (2,), (0, 1), (1, 2)])
def test_in_training_a_part_may_be_frozen(needed, forced):
    tensors = draw(2, 4, 9, 8), draw(6, 4, 3, 3, seed=1), draw(6, seed=2)
    wanted = [tensors[i].requires_grad_() for i in needed]
    actual = torch.autograd.grad(winograd_conv3x3(*tensors).sin().sum(), wanted)
    expected = torch.autograd.grad(convolution(*tensors).sin().sum(), wanted)
    assert all(relative_error(*g) < 3 * USUAL for g in zip(actual, expected))
    assert len(forced) == (2 if 0 in needed else 1)
    assert winograd_conv3x3(*(t.detach() for t in tensors)).grad_fn is None


def second(function, tensors, weights):
    """Derivatives of a penalty on the gradients."""
    firsts = gradients(lambda *t: function(*t).sin(), tensors, weights, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in firsts), tensors)


def test_in_training_second_derivatives_are_right(forced):
    tensors = draw(2, 4, 5, 6), draw(6, 4, 3, 3, seed=1) / 6, draw(6, seed=2)
    weights, tensors = draw(2, 6, 5, 6, seed=3), [t.requires_grad_() for t in tensors]
    expected = second(convolution, [t.double() for t in tensors], weights)
    assert all(relative_error(*g) < PROMISE for g in zip(second(winograd_conv3x3, tensors, weights), expected))


def test_in_training_an_autocast_around_the_backward_pass_rounds_nothing(forced):
    x, weight = draw(2, 4, 9, 8).requires_grad_(), draw(6, 4, 3, 3, seed=1)
    y = winograd_conv3x3(x, weight)
    with torch.autocast("cpu"):
        y.backward(draw(2, 6, 9, 8, seed=3))
    exact = F.conv_transpose2d(draw(2, 6, 9, 8, seed=3), weight, padding=1)
    assert relative_error(x.grad, exact) < USUAL and forced == [(2, 4, 9, 8)]


def test_not_for_batched_gradients(forced):
    x, weight, many = draw(2, 4, 9, 8).requires_grad_(), draw(6, 4, 3, 3, seed=1), draw(3, 2, 6, 9, 8, seed=3)
    batched = torch.autograd.grad(winograd_conv3x3(x, weight), x, many, is_grads_batched=True)[0]
    expected = torch.autograd.grad(convolution(x, weight, None), x, many, is_grads_batched=True)[0]
    assert relative_error(batched, expected) < 1e-6 and forced == [(2, 4, 9, 8)]


def test_not_with_derivatives_of_the_forward_mode(forced):
    conv, x = conv_2d(), draw(2, 4, 9, 8)
    for dual in ("x", "bias"):
        with forward_ad.dual_level():
            if dual == "x":
                out, expected = convolve(conv, forward_ad.make_dual(x, x)), conv(x) - conv.bias[:, None, None]
            else:
                del conv.bias
                conv.bias = forward_ad.make_dual(torch.zeros(6), torch.ones(6))
                out, expected = convolve(conv, x), torch.ones(2, 6, 9, 8)
            assert relative_error(forward_ad.unpack_dual(out).tangent, expected) < 1e-6
    assert forced == []


def test_not_where_torch_func_or_a_subclass_follows_the_numbers(forced):
    conv, x = conv_2d(), draw(3, 2, 4, 9, 8)
    constant = torch.vmap(lambda scale: scale * convolve(conv, x[0]))(torch.ones(3))
    assert torch.equal(constant[1], conv(x[0]))
    with torch.no_grad():
        assert relative_error(torch.vmap(partial(convolve, conv))(x), torch.stack([conv(y) for y in x])) < 1e-6
        tangent = torch.func.jvp(partial(convolve, conv), (x[0],), (x[0],))[1]
        assert relative_error(tangent, conv(x[0]) - conv.bias[:, None, None]) < 1e-6
        assert same(conv, x[0].as_subclass(type("Tagged", (torch.Tensor,), {})))
        bias = torch.func.grad(lambda bias: functional_call(Called(conv), {"conv.bias": bias}, x[0]).sum())(conv.bias)
        assert torch.equal(bias, torch.full((6,), 2.0 * 9 * 8))
        with FakeTensorMode():
            assert convolve(nn.Conv2d(4, 6, 3, padding=1), torch.empty(2, 4, 9, 8)).shape == (2, 6, 9, 8)
        assert convolve(copy.deepcopy(conv).to("meta"), x[0].to("meta")).device.type == "meta"
    assert forced == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_not_in_another_dtype(dtype, forced):
    with torch.no_grad():
        assert same(conv_2d().to(dtype), draw(2, 4, 9, 8).to(dtype))
    assert forced == []


def test_not_under_autocast(forced):
    conv, x = conv_2d(), draw(2, 4, 9, 8)
    with torch.no_grad(), torch.autocast("cpu"):
        assert convolve(conv, x).dtype == torch.bfloat16 and same(conv, x)
    assert forced == []


class Called(nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return convolve(self.conv, x)


def test_not_when_recorded(forced):
    model, x, other = Called(conv_2d()), draw(2, 4, 9, 8), draw(2, 4, 13, 10)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, x, check_trace=False)  # which would compare with the eager model
        assert torch.equal(traced(other), model.conv(other)) and "_convolution" in str(traced.inlined_graph)
        side = torch.export.Dim("side", min=2, max=99)
        exported = torch.export.export(model, (x,), dynamic_shapes=({2: side},))
        assert torch.equal(exported.module()(other[..., :8]), model.conv(other[..., :8]))
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(x), model.conv(x))
    assert forced == []


def test_a_graph_asks_for_no_size():
    """At the real bounds: one for maps of less work and of more."""
    model, small, large = Called(conv_2d(128, 128)), draw(1, 128, 5, 6), draw(1, 128, 48, 52)
    assert not winograd.is_faster(small.shape, (128, 128)) and winograd.is_faster(large.shape, (128, 128))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, small, check_trace=False)
        assert [node.kind() for node in traced.inlined_graph.nodes() if "size" in node.kind()] == []
        sides = {i: torch.export.Dim(f"side{i}", min=2, max=99) for i in (2, 3)}
        exported = torch.export.export(model, (small,), dynamic_shapes=(sides,))
        assert torch.equal(exported.module()(large), model.conv(large))


def test_not_where_something_hangs_on_the_call(forced):
    x, called = draw(2, 4, 9, 8), []
    with torch.no_grad():
        for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
            conv = conv_2d()
            getattr(conv, register)(lambda module, *_: called.append(module))
            assert same(conv, x) and (called[-2:] == [conv, conv] or "backward" in register)
        handle = torch_module.register_module_forward_hook(lambda module, *_: called.append("global"))
        try:
            assert same(conv_2d(), x) and called[-1] == "global"
        finally:
            handle.remove()
        patched = conv_2d()
        patched.forward = lambda x: 7 * x
        assert torch.equal(convolve(patched, x), 7 * x)
    assert forced == []


class Adapted(nn.Conv2d):
    def forward(self, x):
        return 3 * super().forward(x)


@pytest.mark.parametrize(
    "change",
    [
        partial(prune.l1_unstructured, name="weight", amount=0.5),
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        nn.Sequential,
        lambda conv: randomize(Adapted(4, 6, 3, padding=1)),
    ],
)
def test_not_for_a_module_that_computes_something_else(change, forced):
    with torch.no_grad():
        assert same(change(conv_2d().requires_grad_()).eval(), draw(2, 4, 9, 8))
    assert forced == []


class Counted(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, weight):
        self.calls += 1
        return weight


def test_a_parametrisation_is_computed_no_more_often_than_by_a_call(forced):
    """One of spectral norm in training goes on at each computation."""
    conv, counted = conv_2d(), Counted()
    parametrizations.parametrize.register_parametrization(conv, "weight", counted, unsafe=True)
    before = counted.calls
    with torch.no_grad():
        convolve(conv, draw(2, 4, 9, 8))
    assert counted.calls == before + 1 and forced == []


def test_a_single_image_and_a_wrong_width_are_left_to_the_module(forced):
    conv = conv_2d().requires_grad_(False)
    assert convolve(conv, draw(4, 9, 8)).shape == (6, 9, 8)
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 5 channels"):
        convolve(conv, draw(2, 5, 9, 8))
    assert forced == []


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"dilation": 2},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
        {"size": 1, "padding": 0},
        {"size": 5, "padding": 2},
    ],
)
def test_not_for_another_convolution(options, forced):
    with torch.no_grad():
        assert same(conv_2d(**options), draw(2, 4, 9, 8))
    assert forced == []


# Nothing is remembered of a weight


def stepped(conv):
    optimizer = torch.optim.SGD(conv.requires_grad_().parameters(), lr=1.0)
    with torch.enable_grad():
        conv(draw(1, 4, 9, 8)).square().sum().backward()
    optimizer.step()
    return conv


def loaded(conv):
    conv.load_state_dict({n: 2 * p for n, p in conv.state_dict().items()})
    return conv


def replaced(conv):
    conv.weight = nn.Parameter(draw(6, 4, 3, 3, seed=5))
    return conv


def written(conv):
    conv.weight.data.mul_(2)
    return conv


def copied(conv):
    return written(copy.deepcopy(conv))


def pickled(conv):
    return written(pickle.loads(pickle.dumps(conv)))


@pytest.mark.parametrize("change", [stepped, loaded, replaced, written, copied, pickled])
def test_a_changed_weight_counts_at_once(change, forced):
    conv, x = conv_2d(), draw(2, 4, 9, 8)
    names = set(vars(conv)), set(conv.state_dict())
    with torch.no_grad():
        before = convolve(conv, x)
        changed = change(conv)
        assert relative_error(changed(x), before) > 1e-2 and relative_error(convolve(changed, x), changed(x)) < USUAL
        assert (set(vars(conv)), set(conv.state_dict())) == names
    assert len(forced) == 2


# The whole neck

STRIDES = {"p2": 4, "p3": 8, "p4": 16}
MAPS = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6)}
OPTIONS = [
    {"gt": partial(GroundingTransformer, num_parts=2)},
    {"gt": LinearGroundingTransformer, "rt": partial(RenderingTransformer, gate="authors")},
    {"gt": None, "rt": partial(RenderingTransformer, gate="normalized", final_conv=False)},
    {"gt": LinearGroundingTransformer, "fuse": "sum", "min_stride": 8},
]


def build(winograd, channels=8, gt=GroundingTransformer, **options):
    transform = PyramidTransform(STRIDES, 6, channels, gt=gt, winograd=winograd, **options)
    return randomize(PyramidNeck(transform, 6, 10, norm=partial(nn.GroupNorm, 2))).eval()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS)
def test_a_neck_with_it_and_without(options, layout, forced):
    """One image, two, and two of which one is padded; against the neck in float64 too."""
    exact, features = build(True, **options).double(), pyramid_features(MAPS, 6, batch=2)
    for batch, valid in ((1, None), (2, None), (2, ValidSizes.read(images((64, 96), (64, 96), (48, 32))))):
        maps = {n: x[:batch].float().to(memory_format=LAYOUTS[layout]) for n, x in features.items()}
        with torch.no_grad():
            with_it = build(True, **options)(maps, valid)
            taken = len(forced)
            without = build(False, **options)(maps, valid)
            assert len(forced) == taken > 0
            expected = exact({n: x.double() for n, x in maps.items()}, valid)
        for n, y in with_it.items():
            assert relative_error(y, without[n]) < 3 * USUAL and relative_error(y, expected[n]) < 3 * USUAL
        forced.clear()


@pytest.fixture
def called(monkeypatch):
    """The 3x3 convolutions of stride 1 that were called."""
    modules, original = [], nn.Conv2d._conv_forward

    def spy(self, *arguments):
        if (self.kernel_size, self.stride) == ((3, 3), (1, 1)):
            modules.append(self)
        return original(self, *arguments)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", spy)
    return modules


def test_it_takes_every_convolution_of_stride_1_or_none(forced, called):
    """Of three levels the own one and three branches', and two of each of three rendering transformers."""
    maps = {n: x.float() for n, x in pyramid_features(MAPS, 6).items()}
    with torch.no_grad():
        build(True)(maps)
        assert called == [] and len(forced) == 3 * (1 + 3) + 3 * 2
        forced.clear()
        build(False)(maps)
    assert forced == [] and len(called) == len(set(called)) == 3 * (1 + 3) + 3 * 2


def test_it_takes_the_convolution_that_groundings_are_folded_into(forced):
    """Of each image by itself, with a weight of its own."""
    neck = build(True, gt=LinearGroundingTransformer, st=None, rt=None)
    with torch.no_grad():
        neck({n: x.float() for n, x in pyramid_features(MAPS, 6, batch=2).items()})
    own = [(2, 6, *size) for size in MAPS.values()]
    assert sorted(forced) == sorted([*own, *[(1, 8, *MAPS[n]) for n in ("p2", "p3")] * 2])


def trained(neck, maps, valid):
    """The gradients of a training step, of the maps first."""
    tensors = [*(x.requires_grad_() for x in maps.values()), *neck.parameters()]
    return torch.autograd.grad(sum(y.sin().sum() for y in neck(maps, valid).values()), tensors)


@pytest.mark.parametrize("use_checkpoint", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_training_step_of_a_neck_with_it_and_without(options, use_checkpoint, forced):
    maps = {n: x.float() for n, x in pyramid_features(MAPS, 6, batch=2).items()}
    options = {"use_checkpoint": use_checkpoint, **options}
    for valid in (None, ValidSizes.read(images((64, 96), (64, 96), (48, 32)))):
        with_it = trained(build(True, **options).train(), maps, valid)
        taken = len(forced)
        without = trained(build(False, **options).train(), maps, valid)
        assert len(forced) == taken > 0
        assert max(relative_error(a, b) for a, b in zip(with_it, without) if b.abs().max() > 1e-3) < PROMISE
        forced.clear()


def test_a_hook_on_a_convolution_of_a_neck_fires(forced):
    neck, called = build(True), set()
    watched = [m for m in neck.modules() if type(m) is nn.Conv2d]
    for module in watched:
        module.register_forward_hook(lambda module, *_: called.add(module))
    with torch.no_grad():
        neck({n: x.float() for n, x in pyramid_features(MAPS, 6).items()})
    assert called == set(watched) and len(forced) == len(STRIDES)  # of each level its own, part of the fusion's call
    for level in neck.fusion.values():
        level.register_forward_pre_hook(lambda *_: None)
    with torch.no_grad():
        neck({n: x.float() for n, x in pyramid_features(MAPS, 6).items()})
    assert len(forced) == len(STRIDES)


@pytest.mark.parametrize(
    "change", [partial(prune.l1_unstructured, name="weight", amount=0.5), parametrizations.weight_norm]
)
def test_not_for_a_level_whose_own_convolution_is_pruned_or_parametrised(change, forced):
    maps = {n: x.float() for n, x in pyramid_features(MAPS, 6).items()}
    neck, without = build(True), build(False)
    with torch.no_grad():
        before = neck(maps)["p2"]
        for one in (neck, without):
            change(one.fusion["p2"])
            if change is parametrizations.weight_norm:
                one.fusion["p2"].parametrizations.weight.original0 *= 1.5
        forced.clear()
        out = neck(maps)["p2"]
    assert (1, 6, *MAPS["p2"]) not in forced and (1, 6, *MAPS["p3"]) in forced
    assert relative_error(out, without(maps)["p2"]) < 3 * USUAL and relative_error(out, before) > 1e-2


def test_a_pyramid_without_branches_calls_its_convolutions(forced):
    plain = fusion.make_fusions(None, list(MAPS), 6, 6, None, True, None)
    with torch.no_grad():
        fusion.fuse({n: x.float() for n, x in pyramid_features(MAPS, 6).items()}, None, transform=None, fusions=plain)
    assert forced == []
