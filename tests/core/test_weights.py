"""The weights of chosen positions: mixed and put over the source's values, they give the branch's own output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fpt_d2.core import GroundingTransformer, Level, LocalGroundingTransformer, SelfTransformer, ValidSizes
from fpt_d2.core.transformers import MixtureTransformer
from fpt_d2.core.weights import attention_weights

C = 8
CHOSEN = torch.tensor([0, 9, 21, 34])
BRANCHES = {
    "self": lambda: SelfTransformer(C),
    "self, channels, stride": lambda: SelfTransformer(C, temperature="channels", kv_stride=2),
    "self, bounded": lambda: SelfTransformer(C, max_kv_tokens=11),
    "euclidean": lambda: GroundingTransformer(C),
    "one part": lambda: GroundingTransformer(C, num_parts=1),
    "normalised": lambda: GroundingTransformer(C, qk_norm=True),
    "embedded, bounded": lambda: GroundingTransformer(C, similarity="embedded", max_kv_tokens=4),
    "local": lambda: LocalGroundingTransformer(C, square_size=3),
    "local, embedded": lambda: LocalGroundingTransformer(C, square_size=5, similarity="embedded"),
    "local, normalised": lambda: LocalGroundingTransformer(C, square_size=3, qk_norm=True),
}


@pytest.fixture(params=[torch.float32, torch.float64], ids=["32", "64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=BRANCHES)
def branch(request: pytest.FixtureRequest, dtype: torch.dtype) -> MixtureTransformer:
    torch.manual_seed(1)
    return BRANCHES[request.param]().to(dtype)


@pytest.fixture(params=["padded", "whole"])
def levels(request: pytest.FixtureRequest, branch: MixtureTransformer, dtype: torch.dtype) -> tuple[Level, Level]:
    """Target and source; the first image fills 7 x 8 of 8 x 10, and 4 x 4 of 4 x 5 of the coarse one."""
    torch.manual_seed(0)
    sizes = ValidSizes.of([(28, 32), (32, 40)], torch.zeros(2, 3, 32, 40)) if request.param == "padded" else None
    maps = (2 * torch.randn(2, C, 32 // s, 40 // s, dtype=dtype) for s in (4, 8))
    fine, coarse = (Level.of(x, sizes, stride=s) for x, s in zip(maps, (4, 8)))
    return (fine, fine) if isinstance(branch, SelfTransformer) else (fine, coarse)


@torch.no_grad()
def test_over_the_values_they_give_the_output(branch: MixtureTransformer, levels: tuple[Level, Level]) -> None:
    target, source = levels
    weights = attention_weights(branch, target, source, CHOSEN)
    mixed = torch.einsum("n,nhw->hw", weights.gate, weights.maps())
    found = mixed.flatten() @ branch.value(source.positions[0])[0]
    expected: Tensor = branch.transform(target, source)[0].flatten(1)[:, CHOSEN].mean(1)
    exact = found.dtype == torch.float64
    torch.testing.assert_close(found, expected, atol=1e-12 if exact else 2e-6, rtol=1e-12 if exact else 1e-5)


@torch.no_grad()
def test_each_softmax_and_the_gate_sum_to_one(branch: MixtureTransformer, levels: tuple[Level, Level]) -> None:
    weights = attention_weights(branch, *levels, CHOSEN)
    ones = torch.ones(branch.num_parts, dtype=weights.parts.dtype)
    atol = 1e-12 if ones.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(weights.parts.sum(2), ones.expand(len(CHOSEN), -1), atol=atol, rtol=0)
    torch.testing.assert_close(weights.gate.sum(), ones[0], atol=atol, rtol=0)
    maps = weights.maps()
    sums = maps.sum((1, 2))
    if isinstance(branch, LocalGroundingTransformer):
        assert (0 < sums).all() and (sums < 1).all()  # position 0 sees beyond the image
    else:
        torch.testing.assert_close(sums, ones, atol=atol, rtol=0)
    mask = levels[1].mask
    assert mask is None or (maps.masked_select(~mask[0, 0].expand_as(maps)) == 0).all()
