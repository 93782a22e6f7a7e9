"""Which part of a padded batch is image; means and tokens that never mix padding in, eagerly and in a graph."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fpt_d2.core import Level, ValidSizes
from fpt_d2.core.level import grid_size, grid_sizes

from .cases import images, level, relative_error, valid_sizes

CANVAS, SIZES = (8, 8), ((5, 7), (8, 4), (8, 8))


def padded_images():
    return images(CANVAS, *SIZES)


def random_maps(size=CANVAS, batch=3, dtype=torch.float64, seed=0):
    return torch.randn(batch, 2, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_sizes_are_read_off_the_zero_border():
    valid = ValidSizes.read(padded_images())
    assert valid.full == CANVAS and valid.numbers == [*SIZES] and valid.tensor.tolist() == [[*s] for s in SIZES]
    mask = valid.mask()
    assert mask.shape == (3, 1, 8, 8)
    for m, (h, w) in zip(mask[:, 0], SIZES):
        assert m[:h, :w].all() and m.sum() == h * w


def test_a_batch_without_padding_has_no_sizes():
    assert ValidSizes.read(padded_images()[2:]) is None
    assert ValidSizes.of([(8, 8)], padded_images()[2:]) is None
    assert ValidSizes.read(padded_images()[:0]) is None


def test_known_sizes_are_those_that_are_read():
    known, read = ValidSizes.of(SIZES, padded_images()), ValidSizes.read(padded_images())
    assert [*known.numbers] == [*read.numbers] and torch.equal(known.tensor, read.tensor) and known.full == read.full
    unread = ValidSizes.unread(padded_images())
    assert unread.numbers is None and torch.equal(unread.mask(), read.mask())


def test_zeros_inside_an_image_are_image():
    x = padded_images()
    x[0, :, 1:3] = 0
    x[0, :, :, :6] = 0
    x[0, 1:, :, 6] = 0  # one channel of the last column is enough
    assert ValidSizes.read(x).numbers[0] == (5, 7)


def test_an_image_of_zeros_is_valid_everywhere():
    x = padded_images()
    x[1] = 0
    assert ValidSizes.read(x).numbers == [(5, 7), (8, 8), (8, 8)]


@pytest.mark.parametrize("size, valid", [((4, 4), (3, 4)), ((2, 2), (2, 2)), ((1, 1), (1, 1)), ((3, 8), (2, 7))])
def test_a_position_of_a_smaller_map_is_valid_where_its_first_pixel_is(size, valid):
    at = ValidSizes.read(padded_images()).at(torch.Size(size))
    assert at.numbers[0] == valid and at.tensor[0].tolist() == [*valid] and at.full == size


def test_the_padding_of_a_level_is_zero():
    x = random_maps()
    padded = Level.of(x, ValidSizes.read(padded_images()))
    assert torch.equal(padded.map, torch.where(padded.mask, x, 0.0)) and padded.mask[0].sum() == 35
    alone = Level.of(x, None)
    assert alone.map is x and alone.mask is None and alone.without_padding(x) is x


def test_mean_of_the_valid_positions():
    x = random_maps()
    mean = level(x, *SIZES).mean
    assert mean.shape == (3, 2, 1, 1)
    for m, image, (h, w) in zip(mean, x, SIZES):
        assert relative_error(m[:, 0, 0], image[:, :h, :w].mean((1, 2))) < 1e-14
    assert torch.equal(Level(x).mean, x.mean((2, 3), keepdim=True))
    big = torch.full((1, 1, 300, 300), 2.0, dtype=torch.float16)  # a sum of 180000
    assert level(big, (300, 300)).mean.item() == 2


@pytest.mark.parametrize("stride, max_tokens", [(1, 0), (2, 0), (3, 0), (1, 6), (1, 63), (2, 5), (1, 1)])
@pytest.mark.parametrize("read", [True, False])
def test_pooled_tokens_are_those_of_the_image_alone(stride, max_tokens, read):
    """Also where the sizes stay on the device."""
    x, valid = random_maps(), valid_sizes(CANVAS, *SIZES)
    if not read:
        valid = ValidSizes(CANVAS, valid.tensor, None)
    tokens, mask = Level(torch.where(valid.mask(), x, 0.0), valid).tokens(stride, max_tokens)
    assert max_tokens == 0 or tokens.shape[1] <= max_tokens
    for b, (h, w) in enumerate(SIZES):
        alone, _ = Level(x[b : b + 1, :, :h, :w]).tokens(stride, max_tokens)
        assert relative_error(tokens[b][mask[b]], alone[0]) < 1e-12


def test_tokens_of_a_whole_map_are_its_positions():
    x = torch.randn(1, 2, 4, 6)
    for max_tokens in (0, 24, 25):
        tokens, mask = Level(x).tokens(1, max_tokens)
        assert mask is None and torch.equal(tokens, x.flatten(2).transpose(1, 2))


# Integers


def random_budgets():
    random = torch.Generator().manual_seed(0)
    triples = [tuple(t) for t in torch.randint(1, 400, (200, 3), generator=random).tolist()]
    sides = (1, 2, 7, 37, 100, 181, 1000)
    exact = [(h, w, h * w) for h in sides for w in sides] + [(h, h, n * n) for h in sides for n in (1, 10, 36, 99)]
    return [*triples, *exact, *[(h, w, h * w - 1) for h in sides for w in sides if h * w > 1], (37, 37, 100)]


def test_a_grid_keeps_to_its_budget():
    for height, width, budget in random_budgets():
        rows, columns = grid_size(height, width, budget)
        assert 1 <= rows <= height and 1 <= columns <= width and rows * columns <= budget
        if height * width <= budget:
            assert (rows, columns) == (height, width)
        elif min(rows, columns) > 8:  # the aspect is kept, and the budget used
            assert 0.8 < (rows / columns) / (height / width) < 1.25 and rows * columns > 0.75 * budget
    assert grid_size(37, 37, 100) == (10, 10)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_the_grid_of_tensors_is_that_of_integers():
    cases = random_budgets()
    by_budget = {}
    for height, width, budget in cases:
        by_budget.setdefault(budget, []).append((height, width))
    for budget, sizes in by_budget.items():
        height, width = torch.tensor(sizes).unbind(1)
        expected = [list(grid_size(h, w, budget)) for h, w in sizes]
        assert torch.stack(grid_sizes(height, width, budget), 1).tolist() == expected


@pytest.mark.parametrize("budget", [1, 6, 100, 256, 1024])
def test_the_grid_of_every_size_up_to_200(budget):
    height, width = torch.cartesian_prod(torch.arange(1, 201), torch.arange(1, 201)).unbind(1)
    expected = [grid_size(h, w, budget) for h, w in zip(height.tolist(), width.tolist())]
    assert torch.stack(grid_sizes(height, width, budget), 1).tolist() == [list(size) for size in expected]


def test_the_root_of_a_square_is_exact():
    """A float's square root is 1 too small or large beside a large square."""
    from fpt_d2.core.level import _square_root

    roots = torch.tensor([1, 3, 94906265, 94906266, 2**31 - 1])
    for x in (roots**2 - 1, roots**2, roots**2 + 1):
        assert _square_root(x).tolist() == [math.isqrt(n) for n in x.tolist()]


# Recorded graphs


class Tokens(nn.Module):
    """Tokens of a map; ``sizes`` (B, 2) of its images are read off nothing but a tensor, as in a recorded backbone."""

    def __init__(self, stride: int, max_tokens: int) -> None:
        super().__init__()
        self.stride, self.max_tokens = stride, max_tokens

    def forward(self, x, sizes):
        valid = ValidSizes((x.shape[2], x.shape[3]), sizes, None)
        return Level.of(x, valid).tokens(self.stride, self.max_tokens)


class WholeTokens(Tokens):
    """Where nothing is padded."""

    def forward(self, x):
        return Level(x).tokens(self.stride, self.max_tokens)


def random_batches(number, seed=0):
    """Size of the canvas and of each image, some with an image that fills it."""
    random = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=random))

    for i in range(number):
        full = [(37, 37), (10, 10), (draw(2, 40), draw(2, 40))][min(i, 2)]
        sizes = [(draw(1, full[0] + 1), draw(1, full[1] + 1)) for _ in range(draw(1, 4))]
        yield full, [full, *sizes] if i % 2 else sizes


def batch_of(full, sizes, dtype=torch.float64):
    return random_maps(full, len(sizes), dtype, seed=full[0]), torch.tensor(sizes)


def assert_equal_tokens(recorded, x, sizes, stride, max_tokens):
    """What a graph returned, against the eager tokens of the same maps."""
    tokens, mask = recorded
    expected, expected_mask = level(x, *sizes).tokens(stride, max_tokens)
    if expected_mask is None:
        expected_mask = torch.ones(expected.shape[:2], dtype=torch.bool)
    assert tokens.dtype == x.dtype and tokens.shape[1] <= max_tokens
    assert torch.equal(mask.sum(1), expected_mask.sum(1))
    tolerance = 1e-12 if x.dtype == torch.float64 else 1e-5
    assert (tokens[mask] - expected[expected_mask]).abs().max() < tolerance


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_traced_tokens_are_the_eager_ones(dtype):
    """One trace for each stride and budget, at 200 other sizes, paddings and batches."""
    for number, (stride, max_tokens) in enumerate(
        [(1, 100), (1, 1), (1, 6), (1, 49), (2, 5), (3, 20), (1, 400), (2, 100)]
    ):
        module, example = Tokens(stride, max_tokens), (random_maps((8, 8), 1, dtype), torch.tensor([[5, 7]]))
        traced = torch.jit.trace(module, example, check_trace=False)
        for full, sizes in random_batches(25, seed=number):
            x, tensor = batch_of(full, sizes, dtype)
            assert_equal_tokens(traced(x, tensor), x, sizes, stride, max_tokens)


class TwoTokens(nn.Module):
    def __init__(self, *options) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Tokens(*each) for each in options)

    def forward(self, x, sizes):
        return [part(x, sizes) for part in self.parts]


def test_exported_tokens_are_the_eager_ones():
    """One program for maps below the budgets and above them; of even sides, as torch wants where cells are averaged."""
    options, dims = ((1, 100), (2, 20)), [torch.export.Dim(n, min=2, max=64) for n in ("batch", "height", "width")]
    shapes = ({0: dims[0], 2: 2 * dims[1], 3: 2 * dims[2]}, {0: dims[0]})
    example = (random_maps((22, 10), 3), torch.tensor([[5, 7], [22, 10], [4, 2]]))
    program, below = torch.export.export(TwoTokens(*options), example, dynamic_shapes=shapes).module(), 0
    for full, sizes in random_batches(200):
        full = [max(2, side // 2) * 2 for side in full]
        sizes = [(min(h, full[0]), min(w, full[1])) for h, w in (sizes * 2)[: max(2, len(sizes))]]
        below += full[0] * full[1] < 100
        x, tensor = batch_of(full, sizes)
        for recorded, (stride, max_tokens) in zip(program(x, tensor), options):
            assert_equal_tokens(recorded, x, sizes, stride, max_tokens)
    assert 10 < below < 190


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_recorded_tokens_without_padding():
    for stride, max_tokens in [(1, 100), (1, 30), (2, 7)]:
        traced = torch.jit.trace(WholeTokens(stride, max_tokens), random_maps((8, 8), 1), check_trace=False)
        for full, _ in random_batches(70, seed=max_tokens):
            x = random_maps(full, 2, seed=full[1])
            (tokens, mask), (expected, _) = traced(x), Level(x).tokens(stride, max_tokens)
            assert (tokens[mask] - expected.flatten(0, 1)).abs().max() < 1e-12
