"""The paths on a GPU: equality by dtype, and peak memory. Skipped, and said so, where there is none."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import pytest
import torch

from fpt_d2.core import (
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidNeck,
    PyramidTransform,
    SelfTransformer,
    ValidSizes,
    linear_attention,
    local_mixture_attention,
    mixture_attention,
    reference,
)

from .cases import assert_same, attention_inputs, images, level, pyramid_features, randomize, relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

every_path = pytest.mark.parametrize("impl", ["auto", "chunked", "sdpa"])
# Of float64 it computes nothing, see test_triton_mixture.py for its values.
triton = pytest.param("triton", marks=pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed"))
every_similarity = pytest.mark.parametrize("similarity", ["embedded", "euclidean"])
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 3e-3}
MATRIX = 16384 * 4096 * 4


def cuda(inputs):
    return [t if t is None else t.cuda() for t in inputs]


@pytest.fixture(autouse=True)
def full_float32_products():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@every_path
@every_similarity
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_global_attention(impl, similarity, masked, dtype):
    *inputs, mask = cuda(attention_inputs(0, queries=[300], keys=[77], parts=2, width=16, values=32, masked=masked))
    options = {"similarity": similarity, "key_mask": mask}
    fast, slow = partial(mixture_attention, impl=impl, **options), partial(reference.mixture_attention, **options)
    assert_same(fast, slow, inputs, TOLERANCES[dtype], dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_linear_and_local_attention(dtype):
    q, k, v, gate, mask = cuda(attention_inputs(1, queries=[64], keys=[40], parts=2, masked=True))
    fast, slow = (partial(f, key_mask=mask) for f in (linear_attention, reference.linear_attention))
    assert_same(fast, slow, (q, k, v), TOLERANCES[dtype], dtype)
    *inputs, mask = cuda(attention_inputs(2, queries=(9, 11), keys=(5, 6), parts=2, masked=True))
    options = {"square_size": 3, "similarity": "euclidean", "key_mask": mask}
    fast, slow = (partial(f, **options) for f in (local_mixture_attention, reference.local_mixture_attention))
    assert_same(fast, slow, inputs, TOLERANCES[dtype], dtype)


def test_pyramid_equals_the_cpu():
    transform = randomize(PyramidTransform({"p2": 4, "p3": 8}, 8, channels=8).double())
    features = pyramid_features({"p2": (16, 24), "p3": (8, 12)}, 8, batch=2)
    x = images((64, 96), (64, 96), (48, 32))
    expected = transform(features, ValidSizes.read(x))
    features = {n: t.cuda() for n, t in features.items()}
    for n, y in transform.cuda()(features, ValidSizes.read(x.cuda())).items():
        assert relative_error(y.cpu(), expected[n]) < 1e-11


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("impl", ["auto", triton])
@pytest.mark.parametrize("max_kv_tokens", [0, 20])
def test_a_neck_reads_the_device_no_more_than_once(impl, max_kv_tokens):
    gt = partial(GroundingTransformer, max_kv_tokens=max_kv_tokens, impl=impl)
    st = partial(SelfTransformer, impl=impl)
    neck = PyramidNeck(PyramidTransform({"p2": 4, "p3": 8}, 8, channels=8, gt=gt, st=st), 8, 8).cuda()
    features = {n: x.float().cuda() for n, x in pyramid_features({"p2": (16, 24), "p3": (8, 12)}, 8, batch=2).items()}
    valid = ValidSizes.read(images((64, 96), (64, 96), (48, 32)).cuda())
    neck(features, valid)
    torch.cuda.set_sync_debug_mode("error")
    try:
        neck(features, valid)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def peak_of_training(function, inputs):
    inputs = [t.cuda().requires_grad_() for t in inputs]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    function(*inputs).float().square().mean().backward()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - start


@pytest.mark.parametrize("impl", ["auto", "chunked", "sdpa", triton])
@every_similarity
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_no_path_holds_a_matrix(impl, similarity, dtype, masked):
    """64 channels a part and 256 values, as in the paper's model; 16384 queries over 4096 keys."""
    q, k, v = (torch.randn(1, n, 256, dtype=dtype) for n in (16384, 4096, 4096))
    gate = torch.full((1, 4), 0.25, dtype=dtype)
    mask = (torch.arange(4096, device="cuda") < 4000).unsqueeze(0) if masked else None
    options = {"similarity": similarity, "key_mask": mask}
    peak = peak_of_training(partial(mixture_attention, impl=impl, **options), (q, k, v, gate))
    # the queries of four parts, their outputs and their gradients are as wide as a matrix of 4096 columns
    control = peak_of_training(
        partial(mixture_attention, impl="reference", **options | {"similarity": "embedded"}), (q, k, v, gate)
    )
    assert control > 4 * MATRIX and peak < 1.5 * MATRIX


@pytest.mark.parametrize(
    "make",
    [
        GroundingTransformer,
        partial(LocalGroundingTransformer, square_size=5),
        LinearGroundingTransformer,
        partial(GroundingTransformer, max_kv_tokens=1024),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_training_under_autocast_is_finite(make, dtype):
    module = make(64).cuda()
    fine, coarse = torch.randn(2, 64, 64, 96).cuda(), torch.randn(2, 64, 32, 48).cuda()
    with torch.autocast("cuda", dtype):
        out = module(level(fine, (64, 96), (40, 40)), level(coarse, (32, 48), (20, 20)))
    out.float().square().mean().backward()
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())
