"""The three transformers as modules, each against its formulas in core/reference.py."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fpt_d2.core import GroundingTransformer, RenderingTransformer, SelfTransformer, reference

from .cases import pyramid_features, randomize, relative_error

WIDTH = 8
GROUNDINGS = [
    {"similarity": "euclidean", "num_parts": 4},
    {"similarity": "embedded", "num_parts": 1},
    {"similarity": "dot"},
    {"similarity": "euclidean", "kv_stride": 2},
    {"similarity": "embedded", "max_kv_tokens": 7},
    {"similarity": "dot", "kv_stride": 3, "max_kv_tokens": 2},
    {"similarity": "euclidean", "square_size": 3},
    {"similarity": "embedded", "square_size": 5, "num_parts": 2},
]


def double(module, seed=0):
    return randomize(module.double(), seed)


def maps(fine, coarse, batch=2):
    features = pyramid_features({"fine": fine, "coarse": coarse}, WIDTH, batch)
    return features["fine"], features["coarse"]


def gradients(function, module, inputs):
    """Of the sum of squares, with respect to the inputs and every parameter."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = function(*inputs)
    leaves = [*inputs, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves, materialize_grads=True)]


def assert_equal(module, slow, inputs, tolerance=1e-11):
    expected = gradients(partial(slow, module), module, inputs)
    for actual, wanted in zip(gradients(module, module, inputs), expected):
        # the mixture's weights of one key alone, and a key's bias, move nothing
        assert relative_error(actual, wanted) < tolerance or (actual - wanted).abs().max() < 1e-10
    assert expected[0].abs().max() > 1e-3
    return expected


@pytest.mark.parametrize("options", GROUNDINGS)
@pytest.mark.parametrize("coarse", [(4, 5), (7, 9)])
def test_grounding(options, coarse):
    module = double(GroundingTransformer(WIDTH, **options))
    inputs = maps((7, 9), coarse)
    assert_equal(module, reference.grounding_transformer, inputs)
    for t in inputs:  # every image by itself
        t.requires_grad_(False)
    alone = torch.cat([module(f[None], c[None]) for f, c in zip(*inputs)])
    assert relative_error(module(*inputs), alone) < 1e-13


@pytest.mark.parametrize("options", [{}, {"num_parts": 1}, {"num_parts": 4, "kv_stride": 2}, {"max_kv_tokens": 6}])
@pytest.mark.parametrize("norm", [None, partial(nn.GroupNorm, 2)])
def test_self(options, norm):
    module = double(SelfTransformer(WIDTH, norm=norm, **options))
    assert_equal(module, reference.self_transformer, maps((5, 7), (1, 1))[:1])


@pytest.mark.parametrize("halvings, coarse", [(0, (9, 11)), (1, (5, 6)), (2, (3, 3)), (1, (4, 5)), (3, (1, 1))])
@pytest.mark.parametrize("final_conv", [True, False])
def test_rendering(halvings, coarse, final_conv):
    """Also where a trunk rounds odd sizes down: 9 x 11 to 4 x 5."""
    module = double(RenderingTransformer(WIDTH, num_halvings=halvings, final_conv=final_conv))
    fine, coarse = maps((9, 11), coarse)
    assert_equal(module, reference.rendering_transformer, (coarse, fine))


def test_padding_is_as_if_the_image_were_alone():
    """One image of 6 x 4 in a canvas of 8 x 8, whose padding the mask must keep out of every result."""
    fine, coarse = maps((8, 8), (4, 4), batch=1)
    fine_mask, coarse_mask = (torch.zeros(1, n, n, dtype=torch.bool) for n in (8, 4))
    fine_mask[:, :6, :4], coarse_mask[:, :3, :2] = True, True
    for options in GROUNDINGS:
        module = double(GroundingTransformer(WIDTH, **options))
        alone = module(fine[:, :, :6, :4], coarse[:, :, :3, :2])
        garbage = coarse.masked_fill(~coarse_mask, 50.0)
        assert relative_error(module(fine, garbage, coarse_mask)[:, :, :6, :4], alone) < 1e-12, options
        assert relative_error(module(fine, garbage)[:, :, :6, :4], alone) > 0.1, options
    module = double(RenderingTransformer(WIDTH, num_halvings=1))
    alone = module(coarse[:, :, :3, :2], fine[:, :, :6, :4])
    fine, coarse = (t.masked_fill(~m, 0.0) for t, m in ((fine, fine_mask), (coarse, coarse_mask)))
    assert relative_error(module(coarse, fine, coarse_mask, fine_mask)[:, :, :3, :2], alone) < 1e-12
    assert relative_error(module(coarse, fine)[:, :, :3, :2], alone) > 0.1


@pytest.mark.parametrize("options", GROUNDINGS)
def test_channels_last_gives_the_same(options):
    module = double(GroundingTransformer(WIDTH, **options))
    fine, coarse = maps((8, 6), (4, 3))
    plain = gradients(module, module, (fine, coarse))
    last = [t.to(memory_format=torch.channels_last) for t in (fine, coarse)]
    for a, b in zip(gradients(module, module, last), plain):
        assert relative_error(a, b) < 1e-12 or (a - b).abs().max() < 1e-10


def test_gradcheck():
    fine, coarse = (t[:, :4].clone() for t in maps((3, 2), (2, 1), batch=1))
    for options in ({"num_parts": 2}, {"similarity": "dot"}, {"square_size": 3, "num_parts": 2}):
        check(GroundingTransformer(4, **options), (fine, coarse))
    check(SelfTransformer(4), (fine,))
    check(RenderingTransformer(4, num_halvings=1), (coarse, fine))


def check(module, inputs):
    double(module)
    names, parameters = zip(*module.named_parameters())

    def function(*tensors):
        state = dict(zip(names, tensors[len(inputs) :]))
        return functional_call(module, state, tensors[: len(inputs)])

    tensors = [t.detach().requires_grad_() for t in (*inputs, *parameters)]
    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)


@pytest.mark.parametrize("options", GROUNDINGS)
def test_bfloat16_autocast_is_close_and_trains(options):
    module = randomize(GroundingTransformer(WIDTH, **options))
    inputs = [t.float() for t in maps((8, 6), (4, 3))]
    exact = gradients(module, module, inputs)

    def under_autocast(*tensors):
        with torch.autocast("cpu", torch.bfloat16):
            return module(*tensors).float()

    largest = max(float(g.abs().max()) for g in exact[1:])
    for a, b in zip(gradients(under_autocast, module, inputs), exact):
        # a key's bias has no gradient under the dot product: to the rounding of the others
        scale = max(float(b.abs().max()), 0.05 * largest)
        assert (a - b).abs().max() < 0.1 * scale


def test_a_lone_softmax_has_no_gate():
    for module in (GroundingTransformer(4, num_parts=1), GroundingTransformer(4, similarity="dot")):
        assert module.gate is None
    assert SelfTransformer(4).gate.shape == (2, 4)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"similarity": "cosine"}, "similarity is 'cosine'; allowed: 'euclidean', 'embedded', 'dot'"),
        ({"impl": "fast"}, "impl is 'fast'; allowed: 'auto'"),
        ({"num_parts": 3}, "num_parts is 3; it must be positive and divide the 8 channels"),
        ({"num_parts": 0}, "num_parts is 0"),
        ({"square_size": 4}, r"square_size is 4; it must be 0 \(the whole level\) or odd"),
        ({"square_size": -3}, "square_size is -3"),
        ({"kv_stride": 0}, "kv_stride is 0"),
        ({"max_kv_tokens": -1}, "max_kv_tokens -1"),
        ({"square_size": 3, "similarity": "dot"}, "needs a softmax similarity"),
        ({"square_size": 3, "kv_stride": 2}, "kv_stride 1"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        GroundingTransformer(8, **options)


def test_rendering_needs_the_finer_level_as_source():
    with pytest.raises(ValueError, match="num_halvings is -1; the source of rendering must be the finer level"):
        RenderingTransformer(8, num_halvings=-1)
