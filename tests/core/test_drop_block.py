"""DropBlock against its algorithm written out, and what it does to a map's statistics."""

import pytest
import torch

from fpt_d2.core import DropBlock, drop_block, reference

from .cases import relative_error


@pytest.mark.parametrize("size, side, block", [((9, 12), 3, 3), ((7, 7), 5, 5), ((4, 9), 1, 1), ((2, 6), 2, 3)])
def test_equals_the_reference_with_the_same_draws(size, side, block):
    x = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    height, width = size
    starts = x.new_empty(2, 3, height - side + 1, width - side + 1)
    torch.manual_seed(1)
    out = drop_block(x, 0.3, block)
    torch.manual_seed(1)
    starts.bernoulli_(0.3 * height * width / (side**2 * starts[0, 0].numel()))
    assert 0 < starts.sum() < starts.numel()
    assert relative_error(out, reference.drop_block(x, starts > 0, side)) < 1e-14


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
    assert repr(module) == "DropBlock(drop_prob=0.5, block_size=3)"


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
