"""Global attention: every fast path against the formulas written out."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fpt_d2.core import (
    attention,
    linear_attention,
    local_mixture_attention,
    mixture,
    mixture_attention,
    mixture_gate,
    reference,
)

from .cases import assert_same, attention_inputs, relative_error, values_and_gradients

FAST = ("chunked", "sdpa")
SIMILARITIES = ("embedded", "euclidean")
every_path = pytest.mark.parametrize("impl", FAST)
every_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
every_mask = pytest.mark.parametrize("masked", [False, True])
DTYPES = [
    (torch.float32, "embedded", 1e-5),
    (torch.float32, "euclidean", 2e-5),
    (torch.bfloat16, "embedded", 1e-2),
    (torch.bfloat16, "euclidean", 1e-2),
    (torch.float16, "embedded", 2e-3),
    (torch.float16, "euclidean", 2e-3),
]


def compare(inputs, impl, similarity, tolerance=1e-12, dtype=torch.float64):
    *tensors, mask = inputs
    options = {"similarity": similarity, "key_mask": mask}
    fast = partial(mixture_attention, impl=impl, **options)
    assert_same(fast, partial(reference.mixture_attention, **options), tensors, tolerance, dtype)


@every_path
@every_similarity
@every_mask
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_equals_the_reference_across_chunks(impl, similarity, masked, parts):
    # 300 queries are more than one chunk, and the last one is not full
    compare(attention_inputs(parts, queries=[300], keys=[37], parts=parts, masked=masked), impl, similarity)


@every_similarity
@every_mask
@pytest.mark.parametrize("step_bytes", [1, 16 * 11 * 8, 40 * 11 * 8])
def test_equals_the_reference_however_it_is_cut(monkeypatch, similarity, masked, step_bytes):
    """Chunks of one query; of 16 with 3 left over; several images in one step."""
    monkeypatch.setattr(mixture, "STEP_BYTES", step_bytes)
    monkeypatch.setattr(mixture, "MIN_CHUNK", 1 if step_bytes == 1 else 16)
    inputs = attention_inputs(0, queries=[19], keys=[11], parts=2, batch=3, masked=masked)
    compare(inputs, "chunked", similarity)


@every_similarity
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-3)])
def test_one_score_far_above_the_others(similarity, dtype, tolerance):
    """Scores of some thousands, of which float32 has three digits behind the point; then that key is padding."""
    q, k, v, gate, _ = attention_inputs(16, queries=[30], keys=[40], parts=2, batch=1)
    k[:, 7], q[:, 5] = 300 * k[:, 7], 30 * k[:, 7]
    compare((q, k, v, gate, None), "chunked", similarity, tolerance, dtype)
    compare((q, k, v, gate, torch.arange(40).unsqueeze(0) != 7), "chunked", similarity, tolerance, dtype)


@every_path
def test_random_sweep(impl):
    random = torch.Generator().manual_seed(5)
    for seed in range(40):
        draw = [int(torch.randint(1, high, (), generator=random)) for high in (70, 70, 4, 6, 9)]
        queries, keys, batch, width, values = draw
        parts = (1, 2, 3, 4)[seed % 4]
        inputs = attention_inputs(
            seed,
            queries=[queries],
            keys=[keys],
            parts=parts,
            batch=batch,
            width=width,
            values=values,
            masked=seed % 3 == 0,
        )
        compare(inputs, impl, SIMILARITIES[seed % 2], tolerance=4e-12)


@every_path
@every_mask
@pytest.mark.parametrize("dtype, similarity, tolerance", DTYPES)
def test_narrow_dtypes(impl, masked, dtype, similarity, tolerance):
    inputs = attention_inputs(1, queries=[270], keys=[90], parts=2, width=16, values=32, masked=masked)
    compare(inputs, impl, similarity, tolerance, dtype)


@every_path
@every_similarity
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_narrow_inputs_are_float32(impl, similarity, dtype):
    """Scores of about 100, which bfloat16 would round by up to 0.25: a quarter of the weights."""
    q, k, v, gate, _ = attention_inputs(2, queries=[64], keys=[40], parts=2, width=16)
    q, k, v = ((t * s).to(dtype) for t, s in ((q, 8), (k, 4), (v, 1)))
    exact = reference.mixture_attention(q.double(), k.double(), v.double(), gate, similarity=similarity)
    out = mixture_attention(q, k, v, gate.to(dtype), similarity=similarity, impl=impl)
    assert relative_error(out, exact) < 1e-2


@pytest.mark.parametrize("impl", ["chunked", "sdpa", "reference"])
@every_similarity
def test_autocast_does_not_round_float32(impl, similarity):
    q, k, v, gate, _ = (t if t is None else t.float() for t in attention_inputs(3, queries=[50], keys=[40], parts=2))
    options = {"similarity": similarity, "impl": impl}
    plain = values_and_gradients(partial(mixture_attention, **options), (8 * q, 4 * k, v, gate))

    def under_autocast(*inputs):
        with torch.autocast("cpu", torch.bfloat16):
            return mixture_attention(*inputs, **options)

    for a, b in zip(values_and_gradients(under_autocast, (8 * q, 4 * k, v, gate)), plain):
        assert a.dtype == torch.float32 and relative_error(a, b) < 1e-5


def test_a_squared_norm_beyond_float16_is_carried():
    q, k, v, gate, _ = (t if t is None else t.half() for t in attention_inputs(4, queries=[9], keys=[7], parts=1))
    k = k * 0.01 + 200  # |k|^2 = 160000, all keys alike: the weights are those of the small differences
    exact = reference.mixture_attention(q.double(), k.double(), v.double(), gate.double(), similarity="euclidean")
    for impl in FAST:
        out = mixture_attention(q, k, v, gate, similarity="euclidean", impl=impl)
        assert relative_error(out, exact) < 5e-2


@pytest.mark.parametrize("impl", [*FAST, "local"])
@pytest.mark.parametrize(
    "dtype, offset, spread, tolerance",
    [
        (torch.float32, 1000, 1, 1e-5),
        (torch.float32, 10, 0.01, 1e-5),
        (torch.bfloat16, 1000, 1, 1e-2),
        (torch.float16, 1000, 1, 1e-2),
        (torch.float16, 0, 129, 1e-2),
        (torch.float16, 129, 1, 1e-2),
    ],
)
@pytest.mark.parametrize("width", [16, 64])
def test_distances_do_not_see_a_common_offset(impl, dtype, offset, spread, tolerance, width):
    """Against float64 on the inputs as rounded; float16 cannot add the squares of 64 channels from 32 on."""
    sizes = {"queries": (8, 10), "keys": (4, 5)} if impl == "local" else {"queries": [200], "keys": [150]}
    q, k, v, gate, _ = attention_inputs(15, parts=2, width=width, **sizes)
    q, k, v, gate = ((spread * q + offset).to(dtype), (spread * k + offset).to(dtype), v.to(dtype), gate.to(dtype))
    options = {"similarity": "euclidean", **({"square_size": 3} if impl == "local" else {})}
    slow = reference.local_mixture_attention if impl == "local" else reference.mixture_attention
    fast = local_mixture_attention if impl == "local" else partial(mixture_attention, impl=impl)
    exact = slow(q.double(), k.double(), v.double(), gate.double(), **options)
    out = fast(q, k, v, gate, **options)
    assert torch.isfinite(out).all() and relative_error(out, exact) < tolerance


@every_path
@every_similarity
@every_mask
def test_gradcheck(impl, similarity, masked):
    *inputs, mask = attention_inputs(6, queries=[5], keys=[4], parts=2, width=2, values=3, masked=masked)
    inputs = [t.requires_grad_() for t in inputs]
    function = partial(mixture_attention, similarity=similarity, key_mask=mask, impl=impl)
    assert torch.autograd.gradcheck(function, inputs)


@every_path
@every_similarity
def test_masked_keys_are_as_if_they_were_not_there(impl, similarity):
    q, k, v, gate, _ = attention_inputs(7, queries=[20], keys=[15], parts=2)
    mask = torch.arange(15).expand(2, -1) < 9
    k, v = k.masked_fill(~mask.unsqueeze(2), 0), v.masked_fill(~mask.unsqueeze(2), 1e3)
    options = {"similarity": similarity, "impl": impl}
    alone = mixture_attention(q, k[:, :9], v[:, :9], gate, **options)
    assert relative_error(mixture_attention(q, k, v, gate, key_mask=mask, **options), alone) < 1e-12
    assert relative_error(mixture_attention(q, k, v, gate, **options), alone) > 1


@every_path
@every_similarity
def test_weights_sum_to_one_and_the_order_of_keys_is_free(impl, similarity):
    q, k, v, gate, mask = attention_inputs(8, queries=[20], keys=[15], parts=4, masked=True)
    options = {"similarity": similarity, "impl": impl}
    ones = mixture_attention(q, k, torch.ones_like(v), gate, key_mask=mask, **options)
    assert (ones - 1).abs().max() < 1e-13
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    shuffled = mixture_attention(q, k[:, order], v[:, order], gate, key_mask=mask[:, order], **options)
    assert relative_error(shuffled, mixture_attention(q, k, v, gate, key_mask=mask, **options)) < 1e-13


@every_path
def test_one_part_is_plain_softmax(impl):
    q, k, v, gate, _ = attention_inputs(9, queries=[20], keys=[15], parts=1, width=8)
    assert torch.equal(gate, torch.ones_like(gate))
    plain = (q @ k.transpose(1, 2) / 8**0.5).softmax(-1) @ v
    assert relative_error(mixture_attention(q, k, v, gate, impl=impl), plain) < 1e-13
    distance = torch.cdist(q, k, compute_mode="donot_use_mm_for_euclid_dist").square()
    plain = (-distance / 8**0.5).softmax(-1) @ v
    assert relative_error(mixture_attention(q, k, v, gate, similarity="euclidean", impl=impl), plain) < 1e-13


@every_mask
def test_linear_attention(masked):
    q, k, v, _, mask = attention_inputs(10, queries=[30], keys=[20], parts=2, masked=masked)
    fast, slow = (partial(module.linear_attention, key_mask=mask) for module in (attention, reference))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        assert_same(fast, slow, (q, k, v), tolerance, dtype)
    assert torch.autograd.gradcheck(fast, [t[:, :, :3].requires_grad_() for t in (q[:, :4], k, v)])


def test_linear_attention_does_not_overflow_float16():
    q = torch.full((1, 2, 4), 16.0, dtype=torch.float16)
    k = v = torch.full((1, 4096, 4), 16.0, dtype=torch.float16)
    assert torch.equal(linear_attention(q, k, v), torch.full_like(q, 4 * 16**3))


@every_mask
def test_gate(masked):
    _, k, _, _, mask = attention_inputs(11, queries=[1], keys=[12], parts=2, masked=masked)
    weight = torch.randn(3, k.shape[2], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gate = mixture_gate(k, weight, key_mask=mask)
    assert relative_error(gate, reference.mixture_gate(k, weight, key_mask=mask)) < 1e-13
    assert (gate.sum(1) - 1).abs().max() < 1e-14
    by_hand = F.softmax(k.mean(1) @ weight.t(), 1)
    assert (relative_error(gate, by_hand) < 1e-13) is not masked
    function = partial(mixture_gate, key_mask=mask)
    assert torch.autograd.gradcheck(function, [k.requires_grad_(), weight.requires_grad_()])
    assert mixture_gate(k.half(), weight.half()).dtype == torch.float32


@pytest.mark.parametrize("impl", [*FAST, "reference"])
@every_similarity
def test_another_scale_is_another_length_of_the_vectors(impl, similarity):
    q, k, v, gate, mask = attention_inputs(14, queries=[9], keys=[7], parts=2, masked=True)
    options = {"similarity": similarity, "key_mask": mask, "impl": impl}
    factor = 0.3**0.5 * 4**0.25  # of both: 4 channels a part divide by 4 ** 0.5
    expected = mixture_attention(factor * q, factor * k, v, gate, **options)
    assert relative_error(mixture_attention(q, k, v, gate, scale=0.3, **options), expected) < 1e-12


@pytest.mark.parametrize("parts, width, chosen", [(4, 2, "chunked"), (2, 2, "chunked"), (1, 8, "sdpa")])
def test_auto_is_the_faster_path_on_the_cpu(parts, width, chosen):
    q, k, v, gate, _ = attention_inputs(12, queries=[9], keys=[7], parts=parts, width=width)
    results = {impl: mixture_attention(q, k, v, gate, impl=impl) for impl in ("auto", "chunked", "sdpa")}
    assert torch.equal(results["auto"], results[chosen])
    assert not torch.equal(results["chunked"], results["sdpa"])


def test_the_reference_can_be_forced():
    q, k, v, gate, _ = attention_inputs(12, queries=[9], keys=[7], parts=2)
    results = {impl: mixture_attention(q, k, v, gate, impl=impl) for impl in ("chunked", "reference")}
    assert (
        relative_error(results["reference"], reference.mixture_attention(q, k, v, gate, similarity="embedded")) < 1e-14
    )
    assert not torch.equal(results["reference"], results["chunked"])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"similarity": "cosine"}, "similarity is 'cosine'; allowed: 'euclidean' or 'embedded'"),
        ({"impl": "fast"}, "impl is 'fast'; allowed: 'auto', 'chunked', 'sdpa', 'triton' or 'reference'"),
        ({}, "8 channels cannot be cut into 3 equal parts"),
    ],
)
def test_bad_values(options, message):
    q, k, v, gate, _ = attention_inputs(13, queries=[2], keys=[2], parts=2)
    with pytest.raises(ValueError, match=message):
        mixture_attention(q, k, v, gate if options else gate.new_ones(2, 3), **options)


@pytest.mark.parametrize("impl", ["auto", "chunked", "sdpa", "reference"])
def test_shapes_that_do_not_fit_are_refused(impl):
    """On the CPU torch's fused attention asks for none of them: it reads what lies behind values that are too few."""
    q, k, v, gate, _ = attention_inputs(14, queries=[5], keys=[7], parts=1)
    mask = torch.ones(2, 7, dtype=torch.bool)
    for inputs in (
        (q, k, v[:, :4], gate, None),
        (q, k, torch.cat((v, v), dim=1), gate, None),
        (q, k[..., :2], v, gate, None),
        (q[:1], k, v, gate, None),
        (q, torch.cat((k, k)), torch.cat((v, v)), gate, None),
        (q, k, v[:1], gate, None),
        (q, k, v, gate[:1], None),
        (q, k, v, gate, mask[:1]),
        (q[0], k[0], v[0], gate, None),
        (q, k[:, :0], v[:, :0], gate, None),
    ):
        with pytest.raises(ValueError, match=r"^Shapes do not fit each other: q \(.*\), k .*; allowed: q \(B, Q, C\)"):
            mixture_attention(*inputs[:4], key_mask=inputs[4], scale=1.0, impl=impl)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("impl", ["chunked", "sdpa", "reference"])
def test_a_scale_is_positive(impl, scale):
    q, k, v, gate, _ = attention_inputs(14, queries=[5], keys=[7], parts=1)
    with pytest.raises(ValueError, match="^scale is .*; allowed: a positive number"):
        mixture_attention(q, k, v, gate, scale=scale, impl=impl)
