"""DropBlock against its algorithm written out, and what it does to a map's statistics."""

from __future__ import annotations

import pytest
import torch

from fpt_d2.core import DropBlock, drop_block

from .cases import relative_error


def algorithm(x, starts, side):
    """DropBlock paper, algorithm 1: a block from each start, then the mean over what is kept stays."""
    keep = torch.ones_like(x)
    for b, c, i, j in starts.nonzero().tolist():
        keep[b, c, i : i + side, j : j + side] = 0
    return x * keep * keep.numel() / keep.sum()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size, side, block", [((9, 12), 3, 3), ((7, 7), 5, 5), ((4, 9), 1, 1), ((2, 6), 2, 3)])
def test_equals_the_algorithm_with_the_same_draws(size, side, block, shared):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    height, width = size
    starts = x.new_empty(2, 1 if shared else 3, height - side + 1, width - side + 1)
    torch.manual_seed(1)
    out = drop_block(x, 0.3, block, shared=shared)
    torch.manual_seed(1)
    starts.bernoulli_(0.3 * height * width / (side**2 * starts[0, 0].numel()))
    assert 0 < starts.sum() < starts.numel()
    assert relative_error(out, algorithm(x, starts.expand(2, 3, -1, -1) > 0, side)) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_share_and_mean(dtype):
    """More values than float16 can count."""
    torch.manual_seed(0)
    x = torch.ones(4, 64, 32, 32, dtype=dtype)
    for block, low, high in ((1, 0.197, 0.203), (3, 0.16, 0.2)):  # blocks overlap: a little less is dropped
        out = drop_block(x, 0.2, block).float()
        assert low < (out == 0).float().mean() < high
        assert abs(out.mean() - 1) < 5e-3
        assert out[out > 0].unique().numel() == 1


def test_module_drops_in_training_only():
    module, x = DropBlock(0.5, 3), torch.ones(1, 2, 8, 8)
    torch.manual_seed(0)
    assert (module(x) == 0).any()
    assert torch.equal(module.eval()(x), x)
    assert DropBlock(0.0, 3)(x) is x
    assert repr(module) == "DropBlock(drop_prob=0.5, block_size=3, shared=False)"


def test_a_shared_mask_is_one_across_the_channels_of_an_image():
    dropped = []
    for shared in (True, False):
        torch.manual_seed(0)
        dropped.append(DropBlock(0.3, 3, shared=shared)(torch.ones(2, 8, 9, 9)) == 0)
    assert (dropped[0] == dropped[0][:, :1]).all() and not (dropped[0][0] == dropped[0][1]).all()
    assert not (dropped[1] == dropped[1][:, :1]).all()


def test_gradient_is_the_mask():
    x = torch.ones(1, 2, 8, 8, requires_grad=True)
    torch.manual_seed(0)
    out = drop_block(x, 0.4, 3)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out.detach())


@pytest.mark.parametrize(
    "prob, size, message", [(1.0, 3, "drop_prob is 1.0"), (-0.1, 3, "drop_prob"), (0.1, 2, "size is 2")]
)
def test_bad_values(prob, size, message):
    for make in (lambda: DropBlock(prob, size), lambda: drop_block(torch.ones(1, 1, 4, 4), prob, size)):
        with pytest.raises(ValueError, match=message):
            make()
