"""Which part of a padded batch is image, and pooling that never mixes padding in."""

import pytest
import torch
from fpt_d2.core.padding import (
    _budget_sizes,
    apply_mask,
    budget_size,
    masked_mean,
    pool_to_tokens,
    resize_mask,
    valid_mask,
)

from .cases import relative_error


def padded_images():
    """Three images of 5 x 7, 8 x 4 and 8 x 8 in one batch."""
    x = torch.zeros(3, 3, 8, 8)
    random = torch.Generator().manual_seed(0)
    for b, (h, w) in enumerate(((5, 7), (8, 4), (8, 8))):
        x[b, :, :h, :w] = torch.rand(3, h, w, generator=random) + 0.1
    return x


def test_valid_mask_reads_the_zero_border():
    mask = valid_mask(padded_images())
    assert [(int(m[:, 0].sum()), int(m[0].sum())) for m in mask] == [(5, 7), (8, 4), (8, 8)]
    assert [int(m.sum()) for m in mask] == [35, 32, 64]


def test_zeros_inside_an_image_are_image():
    x = padded_images()
    x[0, :, 1:3] = 0
    x[0, :, :, :6] = 0
    x[0, 1:, :, 6] = 0  # one channel of the last column is enough
    assert valid_mask(x)[0].sum() == 35


def test_an_image_of_zeros_is_valid_everywhere():
    x = padded_images()
    x[1] = 0
    assert valid_mask(x)[1].all() and valid_mask(x)[0].sum() == 35


@pytest.mark.parametrize("size, valid", [((4, 4), (3, 4)), ((2, 2), (2, 2)), ((1, 1), (1, 1))])
def test_resized_mask_covers_every_position_that_sees_image(size, valid):
    mask = resize_mask(valid_mask(padded_images()), size)[0]
    assert (int(mask[:, 0].sum()), int(mask[0].sum())) == valid and mask.sum() == valid[0] * valid[1]


def test_masked_mean():
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = valid_mask(padded_images())
    assert relative_error(masked_mean(x, mask)[0, :, 0, 0], x[0, :, :5, :7].mean((1, 2))) < 1e-14
    assert torch.equal(masked_mean(x, None), x.mean((2, 3), keepdim=True))
    big = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)  # a sum of 180000
    assert masked_mean(big, torch.ones(1, 300, 300, dtype=torch.bool)).item() == 2


@pytest.mark.parametrize("stride, max_tokens", [(1, 0), (2, 0), (3, 0), (1, 6), (1, 63), (2, 5), (1, 1)])
def test_pooled_tokens_are_those_of_the_image_alone(stride, max_tokens):
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = valid_mask(padded_images())
    x = x.masked_fill(~mask.unsqueeze(1), 1e9)
    tokens, token_mask = pool_to_tokens(apply_mask(x, mask), mask, stride=stride, max_tokens=max_tokens)
    assert max_tokens == 0 or tokens.shape[1] <= max_tokens
    for b, (h, w) in enumerate(((5, 7), (8, 4), (8, 8))):
        alone, _ = pool_to_tokens(x[b : b + 1, :, :h, :w], None, stride=stride, max_tokens=max_tokens)
        assert relative_error(tokens[b][token_mask[b]], alone[0]) < 1e-12


def test_budget_of_random_sizes():
    random = torch.Generator().manual_seed(0)
    for height, width, budget in torch.randint(1, 400, (2000, 3), generator=random).tolist():
        rows, columns = budget_size(height, width, budget)
        assert 1 <= rows <= height and 1 <= columns <= width and rows * columns <= budget
        if height * width <= budget:
            assert (rows, columns) == (height, width)
        elif min(rows, columns) > 8:  # the aspect is kept, and the budget used
            assert 0.8 < (rows / columns) / (height / width) < 1.25 and rows * columns > 0.75 * budget


@pytest.mark.parametrize("budget", [1, 6, 100, 256, 1024])
def test_budget_of_tensors_is_that_of_integers(budget):
    height, width = torch.cartesian_prod(torch.arange(1, 201), torch.arange(1, 201)).unbind(1)
    expected = [budget_size(h, w, budget) for h, w in zip(height.tolist(), width.tolist())]
    assert torch.stack(_budget_sizes(height, width, budget), 1).tolist() == [list(size) for size in expected]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("stride, max_tokens", [(1, 1), (1, 6), (1, 30), (2, 5)])
def test_recorded_tokens_are_the_eager_ones(stride, max_tokens):
    """At other sizes, paddings and batches than the graph was recorded with, below the bound and above it."""
    random = torch.Generator().manual_seed(0)

    def batch(size, *valid):
        mask = torch.zeros(len(valid), *size, dtype=torch.bool)
        for m, (h, w) in zip(mask, valid):
            m[:h, :w] = True
        return apply_mask(torch.randn(len(valid), 3, *size, dtype=torch.float64, generator=random), mask), mask

    def pool(x, mask):
        return pool_to_tokens(x, mask, stride=stride, max_tokens=max_tokens)

    traced = torch.jit.trace(pool, batch((8, 8), (5, 7)), check_trace=False)
    for x, mask in (
        batch((8, 8), (5, 7)),
        batch((6, 19), (6, 19)),
        batch((13, 9), (13, 2), (4, 9), (13, 9)),
        batch((3, 4), (3, 4), (2, 2)),
    ):
        tokens, token_mask = traced(x, mask)
        expected, expected_mask = pool(x, mask)
        assert tokens.shape[1] <= max_tokens and torch.equal(token_mask.sum(1), expected_mask.sum(1))
        assert relative_error(tokens[token_mask], expected[expected_mask]) < 1e-12


def test_no_padding_needs_no_mask():
    x = torch.randn(1, 2, 4, 6)
    tokens, mask = pool_to_tokens(x, None)
    assert mask is None and torch.equal(tokens, x.flatten(2).transpose(1, 2))
    assert apply_mask(x, None) is x
