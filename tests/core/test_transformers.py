"""The transformers as modules, each against its formulas in core/reference.py; their one contract for all kinds."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from fpt_d2.core import (
    GroundingTransformer,
    Level,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    RenderingTransformer,
    SelfTransformer,
    ValidSizes,
    reference,
)

from .cases import level, pyramid_features, randomize, relative_error

WIDTH = 8
Grounding, Linear, Local = GroundingTransformer, LinearGroundingTransformer, LocalGroundingTransformer
GROUNDINGS = [
    partial(Grounding, WIDTH),
    partial(Grounding, WIDTH, similarity="embedded", num_parts=1),
    partial(Linear, WIDTH),
    partial(Grounding, WIDTH, kv_stride=2),
    partial(Grounding, WIDTH, similarity="embedded", max_kv_tokens=7),
    partial(Linear, WIDTH, kv_stride=3, max_kv_tokens=2),
    partial(Local, WIDTH, square_size=3),
    partial(Local, WIDTH, square_size=5, similarity="embedded", num_parts=2),
    partial(Grounding, WIDTH, num_parts=2, qk_norm=True),
    partial(Grounding, WIDTH, num_parts=1, qk_norm=True, max_kv_tokens=7),
    partial(Local, WIDTH, square_size=3, num_parts=2, qk_norm=True),
]
SELVES = [
    partial(SelfTransformer, WIDTH),
    partial(SelfTransformer, WIDTH, num_parts=1),
    partial(SelfTransformer, WIDTH, num_parts=4, kv_stride=2),
    partial(SelfTransformer, WIDTH, max_kv_tokens=6),
    partial(SelfTransformer, WIDTH, qk_norm=True),
    partial(SelfTransformer, WIDTH, residual=True),
    partial(SelfTransformer, WIDTH, residual=True, temperature="channels", kv_stride=2),
]
RENDERINGS = [
    partial(RenderingTransformer, WIDTH, num_halvings=1),
    partial(RenderingTransformer, WIDTH, num_halvings=1, final_conv=False),
    partial(RenderingTransformer, WIDTH, num_halvings=1, gate="normalized"),
    partial(RenderingTransformer, WIDTH, num_halvings=1, gate="authors"),
]
every_grounding = pytest.mark.parametrize("make", GROUNDINGS)
group_norm = partial(nn.GroupNorm, 2)


def double(module, seed=0):
    return randomize(module.double(), seed)


def maps(fine, coarse, batch=2):
    features = pyramid_features({"fine": fine, "coarse": coarse}, WIDTH, batch)
    return features["fine"], features["coarse"]


def on_maps(branch):
    """Of maps without padding; a self transformer's one map is its source too."""
    return lambda target, *source: branch(Level(target), Level(*source or (target,)))


def gradients(function, module, inputs):
    """Of the sum of squares, with respect to the inputs and every parameter."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = function(*inputs)
    leaves = [*inputs, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves, materialize_grads=True)]


def assert_equal(module, slow, inputs, tolerance=1e-11):
    expected = gradients(partial(slow, module), module, inputs)
    for actual, wanted in zip(gradients(on_maps(module), module, inputs), expected):
        # the mixture's weights of one key alone, and a key's bias, move nothing
        assert relative_error(actual, wanted) < tolerance or (actual - wanted).abs().max() < 1e-10
    assert expected[0].abs().max() > 1e-3


@every_grounding
@pytest.mark.parametrize("coarse", [(4, 5), (7, 9)])
def test_grounding(make, coarse):
    module, inputs = double(make()), maps((7, 9), coarse)
    assert_equal(module, reference.attend, inputs)
    function = on_maps(module)  # every image by itself
    alone = torch.cat([function(f[None], c[None]) for f, c in zip(*inputs)])
    assert relative_error(function(*inputs), alone) < 1e-13


@pytest.mark.parametrize("make", SELVES)
@pytest.mark.parametrize("norm", [None, group_norm])
def test_self(make, norm):
    module = double(make(norm=norm))
    assert_equal(module, lambda module, x: reference.attend(module, x, x), maps((5, 7), (1, 1))[:1])


@pytest.mark.parametrize("halvings, coarse", [(0, (9, 11)), (1, (5, 6)), (2, (3, 3)), (1, (4, 5)), (3, (1, 1))])
@pytest.mark.parametrize("final_conv", [True, False])
@pytest.mark.parametrize("gate", ["paper", "normalized", "authors"])
def test_rendering(halvings, coarse, final_conv, gate):
    """Also where a trunk rounds odd sizes down: 9 x 11 to 4 x 5."""
    module = double(RenderingTransformer(WIDTH, num_halvings=halvings, final_conv=final_conv, gate=gate))
    fine, coarse = maps((9, 11), coarse)
    assert_equal(module, reference.render, (coarse, fine))


@pytest.mark.parametrize("scale", [1e-2, 1e3])
@pytest.mark.parametrize(
    "make", [partial(Grounding, WIDTH, num_parts=1), partial(SelfTransformer, WIDTH), GROUNDINGS[6]]
)
def test_normalised_attention_is_as_sharp_at_any_scale(make, scale):
    """At its start the output goes with the scale of the features, which for the paper's scores it does not."""
    torch.manual_seed(0)
    fine, coarse = maps((6, 7), (3, 4))
    for qk_norm in (True, False):
        module = make(qk_norm=qk_norm).double()
        nn.init.zeros_(module.value.bias)
        branch = on_maps(module)
        error = relative_error(branch(fine * scale, coarse * scale) / scale, branch(fine, coarse))
        assert error < 1e-5 if qk_norm else error > 1e-3


@pytest.mark.parametrize("parts, alike", [(1, [0]), (2, [1]), (4, [1, 3])])
def test_normalised_attention_starts_from_likeness_in_every_second_part(parts, alike):
    """There a key that is the query's own copy gets the highest score, the start of the learned scale."""
    module = SelfTransformer(WIDTH, num_parts=parts, qk_norm=True)
    q, k, *_ = module.attention(*[Level(maps((3, 4), (1, 1))[0].float())] * 2)
    scores = module.scale * torch.einsum("bqnd,bknd->bnqk", *(t.unflatten(2, (parts, -1)) for t in (q, k)))
    diagonal = scores.diagonal(dim1=2, dim2=3)
    is_highest = [bool((s <= d.unsqueeze(2) + 1e-4).all()) for s, d in zip(scores.unbind(1), diagonal.unbind(1))]
    assert [n for n in range(parts) if is_highest[n]] == alike
    assert torch.allclose(diagonal[:, alike], torch.full_like(diagonal[:, alike], 10.0), rtol=1e-3)


def test_normalised_scores_are_bounded():
    module = Grounding(WIDTH, num_parts=2, qk_norm=True)
    nn.init.constant_(module.logit_scale, 50.0)
    fine, coarse = (Level(x.float()) for x in maps((3, 4), (2, 2)))
    q, k, *_ = module.attention(fine, coarse)
    scores = module.scale * torch.einsum("bqnd,bknd->bnqk", *(t.unflatten(2, (2, -1)) for t in (q, k)))
    assert scores.abs().max() <= 100.001


# The formulas of the specification once more, from the parameters alone


def linear(module, x):
    return x @ module.weight.flatten(1).t() + module.bias


def mixture(module, x, scale):
    """sum_n pi_n softmax_j(scale q_in . k_jn) v_j of (K, C)."""
    q, k, v = (linear(m, x) for m in (module.query, module.key, module.value))
    gate = (module.gate @ k.mean(0)).softmax(0)
    parts = zip(gate, q.chunk(len(gate), 1), k.chunk(len(gate), 1))
    return sum(g * (scale * q @ k.t()).softmax(1) for g, q, k in parts) @ v


@pytest.mark.parametrize("temperature, scale", [("parts", 4**-0.5), ("channels", 8**-0.5)])
def test_temperature_of_the_authors_is_the_root_of_all_channels(temperature, scale):
    module, (x, _) = double(SelfTransformer(WIDTH, num_parts=2, temperature=temperature)), maps((3, 4), (1, 1), batch=1)
    expected = mixture(module, x[0].flatten(1).t(), scale).t().view_as(x)
    assert relative_error(on_maps(module)(x), expected) < 1e-12


def test_self_with_the_authors_residual_is_the_input_plus_the_normed_projection():
    module = double(SelfTransformer(WIDTH, residual=True, temperature="channels", norm=group_norm))
    x, _ = maps((3, 4), (1, 1), batch=1)
    out = linear(module.project, mixture(module, x[0].flatten(1).t(), 8**-0.5)).t().reshape(x.shape)
    groups = out.reshape(2, -1)
    groups = (groups - groups.mean(1, keepdim=True)) / (groups.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = x + groups.view_as(x) * module.norm.weight[:, None, None] + module.norm.bias[:, None, None]
    assert relative_error(on_maps(module)(x), expected) < 1e-12


@pytest.mark.parametrize("final_conv", [True, False])
def test_rendering_with_the_authors_gate(final_conv):
    """relu(conv3x3(coarse) * relu(norm(conv1x1(GAP(fine)))) + strided conv3x3s of fine), final convolution or not."""
    module = double(
        RenderingTransformer(WIDTH, num_halvings=2, gate="authors", final_conv=final_conv, norm=nn.BatchNorm2d)
    )
    module.eval()
    gate_conv, gate_norm, _ = module.gate
    gate_norm.running_mean.normal_(), gate_norm.running_var.uniform_(0.5, 2)
    fine, coarse = maps((8, 12), (2, 3))

    def normed(norm, x):  # (B, C, ...)
        mean, variance, weight, bias = (
            t.view(-1, 1, 1) for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (x - mean) / (variance + norm.eps).sqrt() * weight + bias

    average = linear(gate_conv, fine.mean((2, 3)))[:, :, None, None]
    gate = normed(gate_norm, average).clamp(min=0)
    down = fine
    for conv in module.down:
        down = F.conv2d(down, conv.weight, conv.bias, stride=2, padding=1)
    out = (F.conv2d(coarse, module.query.weight, module.query.bias, padding=1) * gate + down).clamp(min=0)
    if final_conv:
        out = F.conv2d(out, module.out.weight, module.out.bias, padding=1)
    assert 0 < (gate == 0).sum() < gate.numel()
    assert module.norm is None
    assert relative_error(on_maps(module)(coarse, fine), out) < 1e-12


# Padding

NORMS = [None, group_norm, nn.BatchNorm2d, nn.SyncBatchNorm]
ALL = [
    *((make, "fine", "coarse") for make in GROUNDINGS),
    *((make, "fine", "fine") for make in SELVES),
    *((make, "coarse", "fine") for make in RENDERINGS),
]
# The second image fills the canvas; the place in a local square needs the ratio of the canvas.
CANVAS = {"fine": (8, 10), "coarse": (4, 5)}
VALID = {"fine": [(6, 4), (8, 10)], "coarse": [(3, 2), (4, 5)]}
ODD = {"fine": [(5, 3), (8, 10)], "coarse": [(3, 2), (4, 5)]}


def padded(name, valid, x):
    return level(x, *valid[name])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("norm", NORMS)
def test_an_image_does_not_depend_on_its_padding(norm, dtype, tolerance):
    """Alone, and in a batch beside a larger one, with garbage in what becomes its padding.

    The batch norms are in inference: in training an image depends on the batch, see below.
    """
    torch.manual_seed(0)
    for make, target, source in ALL:
        module = double(make(norm=norm)).to(dtype).eval()
        valid = VALID if make.func is Local else ODD
        x = {n: torch.randn(2, WIDTH, *size).to(dtype) for n, size in CANVAS.items()}
        for n in x:
            x[n] += 10 * ~level(x[n], *valid[n]).mask
        both = module(padded(target, valid, x[target]), padded(source, valid, x[source]))
        h, w = valid[target][0]
        sh, sw = valid[source][0]
        alone = module(Level(x[target][:1, :, :h, :w]), Level(x[source][:1, :, :sh, :sw]))
        assert relative_error(both[:1, :, :h, :w], alone) < tolerance, make
        assert both[0, :, h:].abs().max() == 0 == both[0, :, :, w:].abs().max(), make
        blind = module(Level(x[target]), Level(x[source]))
        assert relative_error(blind[:1, :, :h, :w], alone) > 1e-3, make


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_statistics_are_those_of_the_valid_positions(norm):
    """In training: those of the branch's own output before its norm, running statistics included."""
    for make, target, source in ALL:
        module, valid = double(make(norm=norm)), VALID
        if module.norm is None:  # the authors' gate has its own
            continue
        x = {n: torch.randn(2, WIDTH, *size).double() for n, size in CANVAS.items()}
        levels = [padded(n, valid, x[n]) for n in (target, source)]
        out = module.transform(*levels)
        values = torch.cat([y[:, :h, :w].flatten(1).t() for y, (h, w) in zip(out, valid[target])])
        module.norm.reset_running_stats()
        result = module(*levels)
        if module.residual:
            result = result - levels[0].map
        mean, variance = values.mean(0), values.var(0, correction=0)
        expected = (values - mean) / (variance + 1e-5).sqrt() * module.norm.weight + module.norm.bias
        actual = torch.cat([y[:, :h, :w].flatten(1).t() for y, (h, w) in zip(result, valid[target])])
        assert relative_error(actual, expected) < 1e-11, make
        assert relative_error(module.norm.running_mean, 0.1 * mean) < 1e-12, make
        assert relative_error(module.norm.running_var, 0.9 + 0.1 * values.var(0)) < 1e-12, make


@pytest.mark.parametrize("norm", NORMS)
def test_a_batch_of_no_images(norm):
    """Forward and backward."""
    for make, target, source in ALL:
        module = double(make(norm=norm))
        x = {n: torch.randn(0, WIDTH, *size).double().requires_grad_() for n, size in CANVAS.items()}
        out = module(Level(x[target]), Level(x[source]))
        assert out.shape == (0, WIDTH, *CANVAS[target])
        out.sum().backward()
        assert x[target].grad.shape == x[target].shape and x[source].grad.shape == x[source].shape
        assert all(p.grad is None or not p.grad.any() for p in module.parameters())


# What holds for any branch


@every_grounding
def test_channels_last_gives_the_same(make):
    module = double(make())
    fine, coarse = maps((8, 6), (4, 3))
    plain = gradients(on_maps(module), module, (fine, coarse))
    last = [t.to(memory_format=torch.channels_last) for t in (fine, coarse)]
    for a, b in zip(gradients(on_maps(module), module, last), plain):
        assert relative_error(a, b) < 1e-12 or (a - b).abs().max() < 1e-10


def test_gradcheck():
    fine, coarse = (t[:, :4].clone() for t in maps((3, 2), (2, 1), batch=1))
    for make in (partial(Grounding, num_parts=2), Linear, partial(Local, square_size=3, num_parts=2)):
        check(make(4), (fine, coarse))
    check(SelfTransformer(4), (fine,))
    check(SelfTransformer(4, residual=True), (fine,))
    check(RenderingTransformer(4, num_halvings=1), (coarse, fine))
    check(RenderingTransformer(4, num_halvings=1, gate="authors"), (coarse, fine))


def check(module, inputs):
    double(module)
    names, parameters = zip(*module.named_parameters())

    def function(*tensors):
        state = dict(zip(names, tensors[len(inputs) :]))
        target, *source = (Level(t) for t in tensors[: len(inputs)])
        return functional_call(module, state, (target, *(source or (target,))))

    tensors = [t.detach().requires_grad_() for t in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@every_grounding
def test_bfloat16_autocast_is_close_and_trains(make):
    module = randomize(make())
    inputs = [t.float() for t in maps((8, 6), (4, 3))]
    exact = gradients(on_maps(module), module, inputs)

    def under_autocast(*tensors):
        with torch.autocast("cpu", torch.bfloat16):
            return on_maps(module)(*tensors).float()

    largest = max(float(g.abs().max()) for g in exact[1:])
    for a, b in zip(gradients(under_autocast, module, inputs), exact):
        # a key's bias has no gradient under the dot product: to the rounding of the others
        scale = max(float(b.abs().max()), 0.05 * largest)
        assert (a - b).abs().max() < 0.1 * scale


def test_a_lone_softmax_has_no_gate():
    assert Grounding(4, num_parts=1).gate is None and not hasattr(Linear(4), "gate")
    assert SelfTransformer(4).gate.shape == (2, 4)


@pytest.mark.parametrize(
    "make, options, message",
    [
        (Grounding, {"similarity": "cosine"}, "similarity is 'cosine'; allowed: 'euclidean' or 'embedded'"),
        (Grounding, {"impl": "fast"}, "impl is 'fast'; allowed: 'auto', 'chunked', 'sdpa', 'triton' or 'reference'"),
        (Grounding, {"num_parts": 3}, "num_parts is 3; allowed: a positive divisor of the 8 channels"),
        (Grounding, {"num_parts": 0}, "num_parts is 0"),
        (Grounding, {"kv_stride": 0}, "kv_stride is 0"),
        (Grounding, {"max_kv_tokens": -1}, "max_kv_tokens is -1"),
        (Linear, {"kv_stride": 0}, "kv_stride is 0"),
        (Local, {"square_size": 4}, "square_size is 4; allowed: an odd number"),
        (Local, {"square_size": -3}, "square_size is -3"),
        (SelfTransformer, {"temperature": 1}, "temperature is 1; allowed: 'parts' or 'channels'"),
        (RenderingTransformer, {"num_halvings": -1}, "num_halvings is -1; allowed: 0 or more: the source is the finer"),
        (
            RenderingTransformer,
            {"num_halvings": 1, "gate": "x"},
            "gate is 'x'; allowed: 'paper', 'normalized' or 'authors'",
        ),
    ],
)
def test_bad_values(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(8, **options)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_one_image_has_the_right_derivative(training):
    """Against finite differences: PyTorch's own is wrong for an image whose channels lie last."""
    module = double(GroundingTransformer(WIDTH, norm=nn.BatchNorm2d)).train(training)
    fine, coarse = (Level(torch.randn(1, WIDTH, *size).double()) for size in ((6, 8), (3, 4)))
    weights = torch.randn(1, WIDTH, 6, 8).double()

    def loss():
        return (module(fine, coarse) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(), module.query.weight)
    with torch.no_grad():
        module.query.weight[0, 1] += 1e-5
        above = loss()
        module.query.weight[0, 1] -= 2e-5
        below = loss()
    assert relative_error(gradient[0, 1], (above - below) / 2e-5) < 1e-6


def test_the_square_follows_the_strides_where_sizes_are_no_multiples():
    """Of an image alone (5 over 2 positions) and beside a larger one (8 over 2)."""
    module = double(LocalGroundingTransformer(WIDTH, square_size=1))
    valid = [(5, 5), (8, 8)]
    fine, coarse = torch.randn(2, WIDTH, 8, 8).double(), torch.randn(2, WIDTH, 2, 2).double()
    sizes = torch.tensor(valid)
    both = module(
        Level(fine, ValidSizes((8, 8), sizes, valid), stride=4),
        Level(coarse, ValidSizes((2, 2), torch.tensor([(2, 2)] * 2), [(2, 2)] * 2), stride=16),
    )
    alone = module(Level(fine[:1, :, :5, :5], stride=4), Level(coarse[:1], stride=16))
    assert relative_error(both[:1, :, :5, :5], alone) < 1e-12
