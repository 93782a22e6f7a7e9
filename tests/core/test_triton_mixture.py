"""``impl="triton"``: the kernels in Triton's interpreter on the CPU, or on a GPU where there is one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import grad, jvp, vmap
from torch.utils.flop_counter import FlopCounterMode

from fpt_d2.core import (
    GroundingTransformer,
    PyramidTransform,
    SelfTransformer,
    mixture_attention,
    reference,
    triton_mixture,
)
from fpt_d2.core.mixture import dot_product_mixture
from fpt_d2.core.triton_mixture import Blocks, Plan

from .cases import assert_same, attention_inputs, pyramid_features, randomize, relative_error, valid_sizes
from .cases import values_and_gradients as gradients_of

triton_kernels = pytest.importorskip("fpt_d2.core.triton_kernels", reason="Triton is not installed")

DEVICE = "cpu" if triton_kernels.INTERPRETED.value else "cuda"
pytestmark = pytest.mark.skipif(
    DEVICE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA GPU, or TRITON_INTERPRET=1 from the start"
)

ROOT = Path(__file__).resolve().parents[2]
KIB = 1024
every_similarity = pytest.mark.parametrize("similarity", ["embedded", "euclidean"])
# The interpreter cuts off what bfloat16 does not hold, where a GPU rounds.
TOLERANCES = {torch.bfloat16: 2e-2 if DEVICE == "cpu" else 1e-2, torch.float16: 3e-3}


@pytest.fixture
def small_blocks(monkeypatch):
    """Two blocks in few numbers; the interpreter is slow."""
    plan = Plan(*[Blocks(16, 16, 1, 16, 8)] * 3)
    monkeypatch.setattr(triton_mixture, "PLANS", {size: {1024: plan} for size in (2, 4)})
    monkeypatch.setattr(triton_mixture, "SMALL_PLANS", {})


def mask_of(kind, keys=18):
    """(2, keys) bool: none, the first keys, a rectangle of a map's rows, or anywhere."""
    place = torch.arange(keys)
    masks = {
        "none": None,
        "first": torch.stack((place < keys, place < keys - 7)),
        "rectangle": torch.stack(((place % 6 < 4) & (place < 12), place % 6 < 5)),
        "anywhere": torch.rand(2, keys, generator=torch.Generator().manual_seed(1)) > 0.5,
    }
    return masks[kind]


def on_device(*tensors, dtype=torch.float32):
    return [t if t is None else t.to(DEVICE, t.dtype if t.dtype == torch.bool else dtype) for t in tensors]


def inputs_of(seed, *, kind="none", queries=13, keys=18, dtype=torch.float32, **sizes):
    """q, k, v, gate (of every image another, none uniform) and a mask."""
    *tensors, _ = attention_inputs(
        seed, queries=[queries], keys=[keys], **{"parts": 2, "width": 3, "values": 5} | sizes
    )
    return on_device(*tensors, mask_of(kind, keys), dtype=dtype)


def compare(inputs, similarity, tolerance=2e-5, dtype=torch.float32):
    *tensors, mask = inputs
    options = {"similarity": similarity, "key_mask": mask}
    fast = partial(mixture_attention, impl="triton", **options)
    assert_same(fast, partial(reference.mixture_attention, **options), tensors, tolerance, dtype)


@every_similarity
@pytest.mark.parametrize(
    "parts, kind", [(n, m) for n in (1, 2) for m in ("none", "first", "rectangle")] + [(4, "first")]
)
def test_equals_the_reference(small_blocks, parts, similarity, kind):
    compare(inputs_of(parts, parts=parts, kind=kind), similarity)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind, similarity", [("none", "euclidean"), ("rectangle", "embedded")])
def test_narrow_dtypes(dtype, kind, similarity):
    """By blocks as they are, of which the last ones are not full."""
    inputs = inputs_of(5, kind=kind, queries=70, keys=40, parts=1, width=40, values=32)
    compare(inputs, similarity, TOLERANCES[dtype], dtype)


@pytest.mark.parametrize(
    "sizes",
    [
        {"queries": 40, "keys": 35, "width": 20, "values": 40},  # blocks of float32 as they are; two steps of columns
        {"queries": 1, "keys": 1},
        {"queries": 5, "keys": 3, "parts": 3, "width": 1, "values": 1},
        {"queries": 17, "keys": 33, "parts": 1, "width": 17, "values": 3, "batch": 1},
    ],
)
def test_odd_sizes(sizes):
    compare(inputs_of(6, **sizes), "euclidean")


@pytest.mark.parametrize("similarity, programs", [("embedded", 1), ("euclidean", 8)])
def test_runs_of_queries(small_blocks, monkeypatch, similarity, programs):
    """All queries in one run; two runs, of which the second has one block less."""
    monkeypatch.setattr(triton_mixture, "PROGRAMS", programs)
    compare(inputs_of(7, queries=45, kind="anywhere"), similarity)


@pytest.mark.parametrize("kind", ["none", "anywhere"])
@pytest.mark.parametrize("parts_of_bias", [1, 2])
def test_gradient_of_a_bias(small_blocks, kind, parts_of_bias):
    q, k, v, gate, mask = inputs_of(8, kind=kind)
    bias = torch.randn(2, parts_of_bias, 18, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    options = {"key_mask": mask, "scale": 0.7}
    fast, slow = (
        gradients_of(
            lambda *t, i=impl: dot_product_mixture(*t[:4], bias=t[4], impl=i, **options), (q, k, v, gate, bias)
        )
        for impl in ("triton", "reference")
    )
    for a, b in zip(fast, slow):
        assert a.shape == b.shape and relative_error(a, b) < 2e-5


def test_a_bias_that_leaves_out_a_whole_block(small_blocks):
    """The rest of it is so large that a query that does not exist, in the last block, would weigh inf."""
    q, k, v, gate, _ = inputs_of(9)
    bias = torch.full((2, 1, 18), 100.0, device=DEVICE)
    bias[:, :, :16] = float("-inf")
    fast, slow = (
        gradients_of(lambda *t, i=impl: dot_product_mixture(*t, bias=bias, scale=1.0, impl=i), (q, k, v, gate))
        for impl in ("triton", "reference")
    )
    for a, b in zip(fast, slow):
        assert torch.isfinite(a).all() and relative_error(a, b) < 1e-4


def test_what_is_padding_is_not_read_and_has_no_gradient(small_blocks):
    q, k, v, gate, mask = inputs_of(10, kind="rectangle")
    padding = ~mask.unsqueeze(2)
    k, v = k.masked_fill(padding, float("nan")), v.masked_fill(padding, float("nan"))
    out, *gradients = gradients_of(partial(mixture_attention, key_mask=mask, impl="triton"), (q, k, v, gate))
    assert all(torch.isfinite(t).all() for t in (out, *gradients))
    assert all((g * padding == 0).all() and g.abs().max() > 1e-3 for g in gradients[1:3])


@pytest.mark.filterwarnings("ignore:divide by zero encountered in log2")
def test_without_valid_keys_or_without_queries_there_are_zeros(small_blocks):
    q, k, v, gate, _ = inputs_of(11)
    mask = torch.zeros(2, 18, dtype=torch.bool, device=DEVICE)
    mask[1] = True
    out, *gradients = gradients_of(partial(mixture_attention, key_mask=mask, impl="triton"), (q, k, v, gate))
    assert all((t[0] == 0).all() and t[1].abs().max() > 1e-3 for t in (out, *gradients))
    for images, queries, keys in ((2, 0, 5), (0, 5, 5)):
        inputs = (q[:images, :queries], k[:images, :keys], v[:images, :keys], gate[:images])
        for t, like in zip(
            gradients_of(partial(mixture_attention, impl="triton"), inputs), (q[:images, :queries, :5], *inputs)
        ):
            assert t.shape == like.shape and (t == 0).all()


def test_not_contiguous(small_blocks):
    q, k, v, gate, mask = inputs_of(12, kind="anywhere")
    scattered = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (q, k, v, gate)]
    assert not any(t.is_contiguous() for t in scattered)
    mask = torch.stack((mask, mask), 2)[:, :, 0]
    function = partial(mixture_attention, similarity="euclidean", key_mask=mask, impl="triton")
    for a, b in zip(gradients_of(function, scattered), gradients_of(function, (q, k, v, gate))):
        assert torch.equal(a, b)
    leaves = [t.requires_grad_() for t in scattered]
    row = torch.randn(5, device=DEVICE)  # a cotangent without strides
    spread, copied = (
        torch.autograd.grad(function(*leaves), leaves, row.expand(2, 13, 5) if t else row.repeat(2, 13, 1))
        for t in (1, 0)
    )
    assert all(torch.equal(a, b) for a, b in zip(spread, copied))


def test_autocast_does_not_round_float32(small_blocks):
    q, k, v, gate, _ = inputs_of(13)
    plain = mixture_attention(q, k, v, gate, impl="triton")
    with torch.autocast(DEVICE, torch.bfloat16):
        assert torch.equal(mixture_attention(q, k, v, gate, impl="triton"), plain)


def test_queries_wider_than_the_values(small_blocks):
    """As normalised ones are under autocast: float32 beside values in bfloat16."""
    q, k, v, gate, _ = inputs_of(14)
    exact = mixture_attention(q, k, v.bfloat16().float(), gate, impl="reference")
    out = mixture_attention(8 * q, k / 8, v.bfloat16(), gate, impl="triton")
    assert out.dtype == torch.bfloat16 and relative_error(out, exact) < 1e-2


def test_a_whole_pyramid(small_blocks):
    sizes = {"p2": (4, 6), "p3": (2, 3)}
    features = {n: x.float().to(DEVICE) for n, x in pyramid_features(sizes, 4, batch=2).items()}
    valid, results = valid_sizes((16, 24), (16, 24), (9, 16)), []
    for impl in ("triton", "reference"):
        branches = {"st": partial(SelfTransformer, impl=impl), "gt": partial(GroundingTransformer, impl=impl)}
        transform = randomize(PyramidTransform({"p2": 4, "p3": 8}, 4, channels=4, **branches)).to(DEVICE)
        out = transform(features, valid)
        sum(y.square().mean() for y in out.values()).backward()
        results.append([*out.values(), *(p.grad for p in transform.parameters())])
    assert len(results[0]) == 29 and all(t.abs().max() > 0 for t in results[1])
    for a, b in zip(*results):
        assert relative_error(a, b) < 2e-5 or (a - b).abs().max() < 1e-6


# Operators


def operator_inputs():
    q, k, v, gate, mask = inputs_of(15, kind="anywhere", queries=3, keys=4, batch=2)
    return q, k, v, gate, torch.randn(2, 1, 4, device=DEVICE), mask


@pytest.mark.parametrize("plain", [False, True])
def test_operators_and_their_fakes(small_blocks, plain):
    q, k, v, gate, bias, mask = operator_inputs()
    q, v = q.transpose(0, 1).contiguous().transpose(0, 1), v.half()  # strides and dtypes of their own
    inputs = (q.half(), k.half(), v, gate, None if plain else bias, None if plain else mask)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.fpt_d2.triton_mixture, (*inputs, 0.5), test_utils=tests)
    out, lse = torch.ops.fpt_d2.triton_mixture(*inputs, 0.5)
    backward = (out, *inputs, lse, 0.5)
    torch.library.opcheck(torch.ops.fpt_d2.triton_mixture_backward, backward, test_utils=tests)


def test_fake_tensors_of_a_gpu():
    """Shapes, strides, dtypes and FLOPs without a GPU, Triton's interpreter or memory."""
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
        b, q, k, c, v = 2, 16384, 4096, 256, 128
        tensors = [
            torch.empty(b, n, size, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
            for n, size in ((q, c), (k, c), (k, v))
        ]
        gate = torch.full((b, 4), 0.25, device=DEVICE, requires_grad=True)
        mask = torch.ones(b, k, dtype=torch.bool, device=DEVICE)
        out = mixture_attention(*tensors, gate, key_mask=mask, impl="triton")
        assert out.shape == (b, q, v) and out.dtype == torch.bfloat16 and out.stride() == (q * v, v, 1)
        assert counter.get_total_flops() == 2 * b * q * k * (2 * c + v)
        out.sum().backward()
        assert counter.get_total_flops() == 2 * b * q * k * (2 * c + v + 5 * c + 4 * v)
        for t in (*tensors, gate):
            assert t.grad.shape == t.shape and t.grad.dtype == t.dtype and t.grad.stride() == t.stride()


def test_compile_and_export_have_the_operators(small_blocks):
    q, k, v, gate, mask = inputs_of(16, kind="anywhere")
    function = partial(mixture_attention, similarity="euclidean", key_mask=mask, impl="triton")
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for a, b in zip(gradients_of(compiled, (q, k, v, gate)), gradients_of(function, (q, k, v, gate))):
        assert relative_error(a, b) < 1e-6

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return function(*tensors)

    shapes = ({1: torch.export.Dim("queries", min=2)}, None, None, None)
    program = torch.export.export(Module(), (q, k, v, gate), dynamic_shapes=(shapes,))
    assert "fpt_d2.triton_mixture.default" in program.graph_module.code
    assert relative_error(program.module()(q[:, :7], k, v, gate), function(q[:, :7], k, v, gate)) < 1e-6


@every_similarity
def test_derivatives_of_derivatives(similarity):
    """Plain operators compute them: right, with the padding left out."""
    q, k, v, gate, mask = inputs_of(17, kind="anywhere", queries=4, keys=5, batch=2)

    def loss(impl):
        return lambda *t: mixture_attention(*t, similarity=similarity, key_mask=mask, impl=impl).sin().sum()

    leaves = [t.requires_grad_() for t in (q, k, v, gate)]
    results = []
    for impl in ("triton", "reference"):
        first = torch.autograd.grad(loss(impl)(*leaves), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
    for a, b in (*zip(*results), *zip(*(grad(loss(i), (0, 1, 2, 3))(*leaves) for i in ("triton", "reference")))):
        assert b.abs().max() > 1e-4 and relative_error(a, b) < 2e-5
    with pytest.raises(NotImplementedError):
        jvp(loss("triton"), (q, k, v, gate), (q, k, v, gate))


def test_vmap(small_blocks):
    q, k, v, gate, mask = inputs_of(18, kind="anywhere", queries=4, keys=5)

    def of_image(impl):
        return lambda *t: mixture_attention(*(x[None] for x in t[:4]), key_mask=t[4][None], impl=impl)[0]

    a, b = (vmap(of_image(impl), (0, None, 0, 0, 0))(q, k[0], v, gate, mask) for impl in ("triton", "reference"))
    assert relative_error(a, b) < 2e-5


# What is refused


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64])
def test_dtypes_that_the_kernels_do_not_have(dtype):
    q, k, v, gate, _ = inputs_of(19)
    with pytest.raises(
        ValueError, match=f"^impl is 'triton', which does not compute in {dtype}: take 'auto', 'chunked'"
    ):
        mixture_attention(q, k, v.to(dtype), gate, impl="triton")


def test_too_many_channels():
    q = torch.zeros(1, 1, 1026, device=DEVICE)
    with pytest.raises(
        ValueError, match="^impl is 'triton', which takes up to 1024 channels, and queries have 1026 in 2"
    ):
        mixture_attention(q, q, q, torch.ones(1, 2, device=DEVICE), impl="triton")


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_kernels, "INTERPRETED", type(triton_kernels.INTERPRETED)(False))
    q, k, v, gate, _ = (t if t is None else t.cpu() for t in inputs_of(20))
    with pytest.raises(ValueError, match="^impl is 'triton', which needs tensors on a CUDA GPU, and these are on cpu"):
        mixture_attention(q, k, v, gate, impl="triton")


def test_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "fpt_d2.core.triton_kernels", None)
    monkeypatch.delattr("fpt_d2.core.triton_kernels")
    q, k, v, gate, _ = inputs_of(21)
    with pytest.raises(ValueError, match="^impl is 'triton', which needs the package triton: take 'auto'$"):
        mixture_attention(q, k, v, gate, impl="triton")


# On a GPU that is not here


@pytest.mark.parametrize(("capability", "shared_memory"), [(90, 227), (86, 99)])
def test_the_kernels_compile_for_a_gpu_and_fit_its_shared_memory(capability, shared_memory):
    """The paper's width, in half precision; KiB that a program may have on an H100 and on a GPU with less."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "tests.core.compile_kernels", "bfloat16", "4", "64", "256", str(capability)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    needs = json.loads(done.stdout.splitlines()[-1])
    assert len(needs) == 3
    for name, kernel in needs.items():
        assert kernel["shared"] <= shared_memory * KIB, f"{name}: {kernel}"
        assert kernel["spilled"] <= 256, f"{name}: {kernel}"


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA GPU: on the CPU the default never takes the kernels")
def test_the_default_takes_them_in_half_precision(monkeypatch):
    taken = []
    monkeypatch.setattr(triton_mixture, "triton_mixture", lambda q, k, v, *_: taken.append(v.dtype) or v)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        mixture_attention(*on_device(*inputs_of(30)[:4], dtype=dtype))
    assert taken == [torch.bfloat16, torch.float16]
