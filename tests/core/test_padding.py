"""Which part of a padded batch is image, and pooling that never mixes padding in."""

import pytest
import torch

from fpt_d2.core.padding import apply_mask, budget_size, masked_mean, pool_to_tokens, resize_mask, valid_mask

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


def test_no_padding_needs_no_mask():
    x = torch.randn(1, 2, 4, 6)
    tokens, mask = pool_to_tokens(x, None)
    assert mask is None and torch.equal(tokens, x.flatten(2).transpose(1, 2))
    assert apply_mask(x, None) is x
