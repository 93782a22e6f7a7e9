"""Derivatives beyond the first, torch.func, and the FLOP counter: right, or an error that says why."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fpt_d2.core import (
    GroundingTransformer,
    Level,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidNeck,
    PyramidTransform,
    SelfTransformer,
    linear_attention,
    local_mixture_attention,
    mixture,
    mixture_attention,
    reference,
)

from .cases import attention_inputs, pyramid_features, randomize, relative_error

every_similarity = pytest.mark.parametrize("similarity", ["embedded", "euclidean"])
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
SMALL = {"parts": 2, "width": 2, "values": 3}


def inputs(masked=True, batch=2, **sizes):
    *tensors, mask = attention_inputs(0, queries=[5], keys=[4], batch=batch, masked=masked, **SMALL)
    return tensors, mask


def fast_and_slow(similarity, mask=None, impl="chunked"):
    options = {"similarity": similarity, "key_mask": mask}
    return partial(mixture_attention, impl=impl, **options), partial(reference.mixture_attention, **options)


# Second derivatives


@every_similarity
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("path", ["chunked", "reference", "local", "linear"])
def test_second_derivatives(path, similarity, masked):
    tensors, mask = inputs(masked)
    if path == "linear":
        function, tensors = partial(linear_attention, key_mask=mask), tensors[:3]
    elif path == "local":
        *tensors, mask = attention_inputs(1, queries=(3, 2), keys=(2, 2), masked=masked, **SMALL)
        function = partial(local_mixture_attention, square_size=3, similarity=similarity, key_mask=mask)
    else:
        function, _ = fast_and_slow(similarity, mask, path)
    tensors = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=path == "local")


@every_similarity
def test_second_derivatives_through_torchs_attention_are_right_or_an_error(similarity):
    tensors, mask = inputs()
    tensors = [t.requires_grad_() for t in tensors]
    function, _ = fast_and_slow(similarity, mask, "sdpa")
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(function, tensors)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="is not implemented"):
        gradients = torch.autograd.grad(function(*tensors).square().sum(), tensors, create_graph=True)
        sum(g.square().sum() for g in gradients).backward()


def second_order(function, tensors):
    """Gradients of the squared gradients of a linear loss: the first backward pass is given no graph by its loss."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    gradients = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
    return [*gradients, *torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)]


@every_similarity
@pytest.mark.parametrize("wanted", [(0,), (1,), (1, 3), (0, 1), (0, 1, 2, 3)])
def test_second_derivatives_of_a_linear_loss(similarity, wanted):
    """By some of the inputs alone too; a Euclidean bias is computed from k, whose gradient has both ways then."""
    tensors, mask = inputs()

    def of_wanted(function):
        return lambda *some: function(*[dict(zip(wanted, some)).get(i, t) for i, t in enumerate(tensors)])

    fast, slow = (second_order(of_wanted(f), [tensors[i] for i in wanted]) for f in fast_and_slow(similarity, mask))
    for a, b in zip(fast, slow):
        assert b.abs().max() > 1e-6 and relative_error(a, b) < 1e-12


def test_second_derivatives_where_q_k_and_v_are_one_tensor():
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    gate = torch.full((2, 2), 0.5, dtype=torch.float64)
    fast, slow = fast_and_slow("euclidean")
    for a, b in zip(*(second_order(lambda x, f=f: f(x, x, x, gate), [x]) for f in (fast, slow))):
        assert relative_error(a, b) < 1e-12


@pytest.mark.parametrize("third", [False, True])
def test_a_gradient_penalty_through_a_whole_neck(third):
    """Two derivatives, or three, of every path of a pyramid against plain operators."""
    results = []
    for impl in ("chunked", "reference"):
        st, gt = partial(SelfTransformer, impl=impl), partial(GroundingTransformer, impl=impl)
        transform = PyramidTransform({"p2": 4, "p3": 8}, 4, 4, st=st, gt=gt)
        neck = randomize(PyramidNeck(transform, 4, 4).double())
        x = {n: t.requires_grad_() for n, t in pyramid_features({"p2": (4, 6), "p3": (2, 3)}, 4).items()}
        y = sum(y.sum() for y in neck(x).values())
        for _ in range(2 if third else 1):
            y = sum(g.square().sum() for g in torch.autograd.grad(y, [*x.values()], create_graph=True))
        results.append(torch.autograd.grad(y, [*neck.parameters()], allow_unused=True))
    for a, b in zip(*results):
        assert (a is None) == (b is None) and (a is None or relative_error(a, b) < 1e-10 or b.abs().max() < 1e-10)


# torch.func: torch warns of operators that it computes one image after the other


def of_image(function):
    """Of one image without its dimension of the batch."""
    return lambda *tensors: function(*(t[None] for t in tensors))[0]


@every_similarity
@pytest.mark.parametrize("impl", ["chunked", "sdpa"])
def test_func_transforms(impl, similarity):
    tensors, mask = inputs()
    fast, slow = fast_and_slow(similarity, mask, impl)

    def loss(function):
        return lambda *tensors: function(*tensors).sin().sum()

    for argnums in (0, 1, (0, 1, 2, 3)):
        for a, b in zip(*(grad(loss(f), argnums)(*tensors) for f in (fast, slow))):
            assert relative_error(a, b) < 1e-12
    fast, slow = map(of_image, fast_and_slow(similarity, None, impl))
    assert relative_error(vmap(fast)(*tensors), vmap(slow)(*tensors)) < 1e-12
    assert relative_error(vmap(fast, (0, None, 0, 0))(tensors[0], tensors[1][0], *tensors[2:]),
                          vmap(slow, (0, None, 0, 0))(tensors[0], tensors[1][0], *tensors[2:])) < 1e-12  # fmt: skip
    each = [vmap(grad(loss(f), (0, 1, 2, 3))) for f in (fast, slow)]
    for a, b in zip(*(f(*tensors) for f in each)):
        assert relative_error(a, b) < 1e-12
    twice = [torch.stack((t, 2 * t)) for t in tensors]
    for a, b in zip(*(vmap(f)(*twice) for f in each)):
        assert relative_error(a, b) < 1e-12
    a, b = (grad(lambda k, f=f: vmap(f, (0, None, 0, 0))(tensors[0], k, *tensors[2:]).sin().sum())(tensors[1][0])
            for f in (fast, slow))  # fmt: skip
    assert relative_error(a, b) < 1e-12


@every_similarity
def test_hessians_by_reverse_mode(similarity):
    tensors, mask = inputs(batch=1)

    def of_one(function, i):
        return lambda x: function(*tensors[:i], x, *tensors[i + 1 :]).sum()

    for i in range(2):
        fast, slow = (jacrev(jacrev(of_one(f, i)))(tensors[i]) for f in fast_and_slow(similarity, mask))
        assert slow.abs().max() > 1e-4 and relative_error(fast, slow) < 1e-12


@every_similarity
def test_forward_mode_says_what_to_take(similarity):
    tensors, mask = inputs()
    fast, slow = fast_and_slow(similarity, mask)
    tangents = tuple(torch.randn_like(t) for t in tensors)
    for transform in (lambda f: jvp(f, tuple(tensors), tangents), lambda f: hessian(lambda *t: f(*t).sum())(*tensors)):
        with pytest.raises(NotImplementedError, match="impl='reference'"):
            transform(fast)
    plain = jvp(fast_and_slow(similarity, mask, "reference")[0], tuple(tensors), tangents)[1]
    step = 1e-6
    numeric = (slow(*(t + step * d for t, d in zip(tensors, tangents))) - slow(*tensors)) / step
    assert relative_error(plain, jvp(slow, tuple(tensors), tangents)[1]) < 1e-12
    assert relative_error(plain, numeric) < 1e-4


@pytest.mark.parametrize(
    "make",
    [GroundingTransformer, LinearGroundingTransformer, partial(LocalGroundingTransformer, square_size=3)],
)
def test_gradients_of_each_image_through_a_module(make):
    """The usual recipe of torch.func: vmap over a grad of a functional call."""
    module = randomize(make(4).double())
    parameters = dict(module.named_parameters())
    x = pyramid_features({"fine": (4, 6), "coarse": (2, 3)}, 4, batch=3)

    def loss(parameters, fine, coarse):
        levels = Level(fine[None]), Level(coarse[None])
        return functional_call(module, parameters, levels).square().sum()

    each = vmap(grad(loss), (None, 0, 0))(parameters, x["fine"], x["coarse"])
    for b in range(3):
        module.zero_grad()
        loss(parameters, x["fine"][b], x["coarse"][b]).backward()
        for name, p in parameters.items():
            assert relative_error(each[name][b], p.grad) < 1e-11 or p.grad.abs().max() < 1e-11


# FLOPs


def count(make, *, fake):
    if not fake:
        return count_of(make())
    with FakeTensorMode():
        return count_of(make())


def count_of(tensors):
    with FlopCounterMode(display=False) as counter:
        out = mixture_attention(*tensors[:4], similarity="euclidean", key_mask=tensors[4], impl="chunked")
        forward = counter.get_total_flops()
        out.sum().backward()
    return forward, counter.get_total_flops() - forward


@pytest.mark.parametrize("fake", [False, True])
def test_flops_of_the_attention_in_chunks(fake):
    """Two a multiply-add: scores and values; then scores again and their two gradients, weights' and values'."""
    b, q, k, c, v = 2, 300, 40, 8, 6

    def make():
        tensors = [torch.randn(b, n, d, requires_grad=True) for n, d in ((q, c), (k, c), (k, v))]
        return [*tensors, torch.full((b, 2), 0.5), torch.ones(b, k, dtype=torch.bool)]

    centres = 2 * 2 * b * k * c  # of the keys by their mask, and their spread
    forward, backward = count(make, fake=fake)
    assert forward - centres == 2 * b * q * k * (c + v)
    assert backward == 2 * b * q * k * (3 * c + 2 * v)


def test_the_counted_formula_is_what_the_products_do(monkeypatch):
    """The operators as they are, in chunks of which the last one is not full, counted product by product."""
    q, k, v, gate, _ = attention_inputs(2, queries=[300], keys=[40], parts=2)
    out, lse = mixture._mixture(q, k, v, gate, None, 1.0)
    for operator, arguments in (
        (mixture._mixture, (q, k, v, gate, None, 1.0)),
        (mixture._mixture_backward, (out, q, k, v, gate, None, lse, 1.0)),
    ):
        with FlopCounterMode(display=False) as whole:
            operator(*arguments)
        with FlopCounterMode(display=False) as products:
            operator._init_fn(*arguments)
        small = 2 * 2 * 300 * 40 * 2  # one more channel of each part's scores
        assert whole.get_total_flops() == products.get_total_flops() - small
