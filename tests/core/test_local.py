"""Attention within squares: tiles against one query after the other, and against global attention."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from fpt_d2.core import local, local_mixture_attention, mixture_attention, reference

from .cases import assert_same, attention_inputs, relative_error

SIMILARITIES = ("embedded", "euclidean")
every_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)


def compare(inputs, size, similarity, tolerance=1e-12, dtype=torch.float64):
    *tensors, mask = inputs
    options = {"square_size": size, "similarity": similarity, "key_mask": mask}
    fast, slow = (partial(m.local_mixture_attention, **options) for m in (local, reference))
    assert_same(fast, slow, tensors, tolerance, dtype)


@every_similarity
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("fine, coarse", [((9, 11), (9, 11)), ((9, 13), (5, 7)), ((13, 10), (4, 3))])
def test_equals_the_reference_across_tiles(similarity, size, fine, coarse):
    """Levels of one size, and ratios of two and of four, with maps that tiles do not divide."""
    compare(attention_inputs(size, queries=fine, keys=coarse, parts=2, batch=1, masked=size == 3), size, similarity)


def test_random_sweep(monkeypatch):
    random = torch.Generator().manual_seed(3)
    for seed in range(25):
        height, width, ratio, half, batch, side = (
            int(torch.randint(low, high, (), generator=random))
            for low, high in ((1, 9), (1, 9), (1, 4), (0, 4), (1, 3), (1, 6))
        )
        monkeypatch.setattr(local, "TILE", side)
        # one row of tiles at a time, as on the CPU, a few, or all
        monkeypatch.setitem(local.GROUP_BYTES, "cpu", (0, 2**13, 2**28)[seed % 3])
        coarse = (-(-height // ratio), -(-width // ratio))
        inputs = attention_inputs(
            seed, queries=(height, width), keys=coarse, parts=(1, 2, 4)[seed % 3], batch=batch, masked=seed % 2 == 0
        )
        compare(inputs, 2 * half + 1, SIMILARITIES[seed % 2])


@every_similarity
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_narrow_dtypes(similarity, dtype, tolerance):
    inputs = attention_inputs(1, queries=(8, 10), keys=(4, 5), parts=2, width=8, masked=True)
    compare(inputs, 3, similarity, tolerance, dtype)


@every_similarity
def test_gradcheck(similarity):
    *inputs, mask = attention_inputs(2, queries=(4, 3), keys=(2, 2), parts=2, batch=1, width=1, values=2, masked=True)
    function = partial(local_mixture_attention, square_size=3, similarity=similarity, key_mask=mask)
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in inputs])


@every_similarity
def test_a_square_over_the_whole_map_is_global_attention_with_zeros_around(similarity):
    """Every query meets all keys, and as many zero keys as its square has places outside."""
    q, k, v, gate, _ = attention_inputs(3, queries=(3, 4), keys=(3, 4), parts=2, width=3)
    size = 9
    out = local_mixture_attention(q, k, v, gate, square_size=size, similarity=similarity)
    k, v = (F.pad(t.flatten(2), (0, size**2 - 12)).transpose(1, 2) for t in (k, v))
    q = q.flatten(2).transpose(1, 2)
    whole = mixture_attention(q, k, v, gate, similarity=similarity, impl="reference")
    assert relative_error(out.flatten(2).transpose(1, 2), whole) < 1e-13


@every_similarity
def test_a_square_of_one_is_the_value_itself(similarity):
    q, k, v, gate, _ = attention_inputs(4, queries=(6, 9), keys=(3, 5), parts=2)
    out = local_mixture_attention(q, k, v, gate, square_size=1, similarity=similarity)
    above = v.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :6, :9]
    assert relative_error(out, above) < 1e-13


def test_weights_sum_to_one_inside_and_less_at_the_border():
    q, k, v, gate, _ = attention_inputs(5, queries=(7, 7), keys=(7, 7), parts=2)
    share = local_mixture_attention(q, k, torch.ones_like(v), gate, square_size=3)
    assert (share[:, :, 1:-1, 1:-1] - 1).abs().max() < 1e-14
    border = torch.ones(7, 7, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert share[:, :, border].max() < 1 and share.min() > 0


def test_padding_counts_as_the_outside_of_the_map():
    q, k, v, gate, _ = attention_inputs(6, queries=(8, 8), keys=(4, 4), parts=2)
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :3, :2] = True
    alone = local_mixture_attention(q[:, :, :6, :4], k[:, :, :3, :2], v[:, :, :3, :2], gate, square_size=3)
    k, v = (t.masked_fill(~mask.unsqueeze(1), 1e3) for t in (k, v))
    padded = local_mixture_attention(q, k, v, gate, square_size=3, key_mask=mask)
    assert relative_error(padded[:, :, :6, :4], alone) < 1e-13


def test_autocast_does_not_round_float32():
    q, k, v, gate, _ = (
        t if t is None else t.float() for t in attention_inputs(7, queries=(6, 6), keys=(3, 3), parts=2)
    )
    plain = local_mixture_attention(8 * q, 4 * k, v, gate, square_size=3)
    with torch.autocast("cpu", torch.bfloat16):
        out = local_mixture_attention(8 * q, 4 * k, v, gate, square_size=3)
    assert out.dtype == torch.float32 and relative_error(out, plain) < 1e-6


@pytest.mark.parametrize("size", [0, 2, -1])
def test_bad_size(size):
    q, k, v, gate, _ = attention_inputs(8, queries=(2, 2), keys=(2, 2), parts=1)
    with pytest.raises(ValueError, match=f"square_size is {size}; allowed: an odd number above 0"):
        local_mixture_attention(q, k, v, gate, square_size=size)
    with pytest.raises(ValueError, match="similarity is 'dot'; allowed: 'euclidean' or 'embedded'"):
        local_mixture_attention(q, k, v, gate, square_size=1, similarity="dot")


def test_a_map_takes_few_launches_on_a_gpu(monkeypatch):
    """As many operators as a single row of tiles, where the scores fit; two of each call are of the keys' mean."""
    q, k, v, gate, _ = attention_inputs(5, queries=(64, 16), keys=(32, 8), parts=2)
    counts = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setitem(local.GROUP_BYTES, "cpu", local.GROUP_BYTES[device])
        with torch.profiler.profile() as profiler, torch.no_grad():
            local.local_mixture_attention(q, k, v, gate, square_size=5)
        counts[device] = sum(event.name in ("aten::bmm", "aten::_softmax") for event in profiler.events())
    assert counts == {"cpu": 8 * 4 + 2, "cuda": 4 + 2}
