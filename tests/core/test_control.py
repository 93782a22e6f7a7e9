"""The control of an ablation: what it reads does not depend on content, and it is as large as attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fpt_d2.core import GroundingTransformer, Level, SelfTransformer, ValidSizes
from fpt_d2.core.control import WithoutAttention

C = 32


def control(read: str) -> WithoutAttention:
    torch.manual_seed(0)
    return WithoutAttention(C, read=read).double()


def level(height: int, width: int, seed: int = 0) -> Level:
    random = torch.Generator().manual_seed(seed)
    return Level(torch.randn(1, C, height, width, dtype=torch.float64, generator=random))


def test_place_reads_around_the_same_place_alone() -> None:
    branch, target, source = control("place"), level(8, 12), level(4, 6, seed=1)
    changed = source.map.clone()
    changed[:, :, 1, 2] += 1
    differs = (branch(target, Level(changed)) != branch(target, source)).any(1)[0]
    rows, columns = (differs.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    # Position (1, 2) covers rows 2, 3 and columns 4, 5 of a map twice as large; one more on each side by the kernel.
    assert rows == [1, 2, 3, 4] and columns == [3, 4, 5, 6]


def test_mean_does_not_read_where_anything_is() -> None:
    branch, target, source = control("mean"), level(8, 12), level(4, 6, seed=1)
    places = torch.randperm(24)
    shuffled = Level(source.map.flatten(2)[..., places].unflatten(2, (4, 6)))
    torch.testing.assert_close(branch(target, shuffled), branch(target, source))
    assert not torch.allclose(branch(target, level(4, 6, seed=2)), branch(target, source))


@pytest.mark.parametrize("read", ["place", "mean"])
def test_padding_changes_nothing_and_stays_zero(read: str) -> None:
    branch, target, source = control(read), level(8, 12), level(4, 6, seed=1)
    images = ValidSizes((64, 64), torch.tensor([[32, 48]]), [(32, 48)])
    padded = [
        Level.of(torch.nn.functional.pad(x.map, (0, w, 0, h)), images) for x, h, w in ((target, 8, 4), (source, 4, 2))
    ]
    out = branch(*padded)
    torch.testing.assert_close(out[:, :, :8, :12], branch(target, source))
    assert not out[:, :, 8:].any() and not out[:, :, :, 12:].any()


@pytest.mark.parametrize("read", ["place", "mean"])
@pytest.mark.parametrize("attention", [SelfTransformer, GroundingTransformer])
def test_is_as_large_as_attention(read: str, attention: type[nn.Module]) -> None:
    def size(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    ratio = size(WithoutAttention(64, read=read)) / size(attention(64))
    assert 0.95 < ratio < 1.05


def test_every_parameter_learns_and_a_wrong_word_is_named() -> None:
    for read in ("place", "mean"):
        branch = control(read)
        branch(level(8, 12), level(4, 6)).sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in branch.parameters())
    with pytest.raises(ValueError, match="read is 'all'; allowed: 'place' or 'mean'"):
        WithoutAttention(C, read="all")
