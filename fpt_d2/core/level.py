"""A level of a pyramid: a map, and how much of it is image.

A detector pads the images of a batch at the bottom and the right, with exact zeros after normalisation. What lies in
the padding must not enter a mean, a normalisation or the keys of an attention, or an image's result would depend on the
images beside it.

Shape legend: B batch, C channels, H x W size of a map, h x w valid part of it in an image, K keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arguments import check_argument
from .normalization import masked_norm


def is_recorded() -> bool:
    """Whether operators are recorded into a graph (torch.jit.trace, torch.export, torch.compile) for other inputs."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@dataclass(frozen=True, eq=False)
class ValidSizes:
    """Valid height and width of each image of a batch, within maps of one size.

    Attributes:
        full: (H, W) of the maps.
        tensor: (B, 2) int64.
        numbers: the same as Python's numbers; None in a recorded graph, which serves other sizes.
    """

    full: tuple[int, int]
    tensor: Tensor
    numbers: Sequence[tuple[int, int]] | None

    @staticmethod
    def read(images: Tensor) -> ValidSizes | None:
        """Read the sizes off the zeros at the bottom and right of padded images: the one read of the device.

        An image ends at its last row and its last column that are not zero in every channel; one of zeros alone is
        valid everywhere. A border of image that equals the pixel mean to the last bit therefore counts as padding.

        Args:
            images: (B, C, H, W), normalised.

        Returns:
            The sizes, or None where nothing is padded.
        """
        tensor, (height, width) = valid_sizes(images), images.shape[-2:]
        if is_recorded():
            return ValidSizes((height, width), tensor, None)
        numbers = [(h, w) for h, w in tensor.tolist()]
        if all(size == (height, width) for size in numbers):
            return None
        return ValidSizes((height, width), tensor, numbers)

    @staticmethod
    def unread(images: Tensor) -> ValidSizes:
        """:meth:`read` without a read of the device: for masks; pooling to a budget is slower without the numbers."""
        return ValidSizes((images.shape[-2], images.shape[-1]), valid_sizes(images), None)

    @staticmethod
    def of(sizes: Sequence[tuple[int, int]], images: Tensor) -> ValidSizes | None:
        """From the known (height, width) of each image of (B, C, H, W), as a detector's list of images has them."""
        full = (images.shape[-2], images.shape[-1])
        fit = len(sizes) == len(images) and all(0 < h <= full[0] and 0 < w <= full[1] for h, w in sizes)
        check_argument("sizes", list(sizes), fit, f"a height and width for each of {len(images)} images, up to {full}")
        if all(tuple(size) == full for size in sizes):
            return None
        return ValidSizes(full, torch.tensor(sizes, device=images.device), sizes)

    def at(self, size: torch.Size) -> ValidSizes:
        """The sizes on maps of another size: a position is valid where its first pixel is, so that one always is."""
        (full_height, full_width), (height, width) = self.full, size
        heights, widths = self.tensor.unbind(1)
        tensor = torch.stack((_ceil(heights * height, full_height), _ceil(widths * width, full_width)), dim=1)
        if self.numbers is None:
            return ValidSizes((height, width), tensor, None)
        numbers = [(_ceil(h * height, full_height), _ceil(w * width, full_width)) for h, w in self.numbers]
        return ValidSizes((height, width), tensor, numbers)

    def mask(self) -> Tensor:
        """(B, 1, H, W) bool, False in the padding."""
        rows, columns = (
            torch.arange(side, device=self.tensor.device) < self.tensor[:, i, None] for i, side in enumerate(self.full)
        )
        return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def valid_sizes(images: Tensor) -> Tensor:
    """:meth:`ValidSizes.read` without a read of the device: (B, 2) int64."""
    filled = (images != 0).any(1)
    lengths = []
    for dim in (2, 1):
        line = filled.any(dim)
        position = torch.arange(1, line.shape[1] + 1, device=images.device)
        last = (line * position).amax(1)
        lengths.append(torch.where(last > 0, last, line.shape[1]))
    return torch.stack(lengths, dim=1)


class _once:
    """A property that is computed once; Python's has a lock until 3.12, which torch.compile refuses."""

    def __init__(self, compute: Callable[[Any], Tensor]) -> None:
        self._compute, self._name = compute, compute.__name__

    def __get__(self, instance: Any, owner: type | None = None) -> Tensor:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Level:
    """
    A map and the valid size of each of its images.

    Attributes:
        map: (B, C, H, W), zero in the padding.
        valid: at the size of the map, or None where all of it is image.
        stride: pixels of the image from one position to the next; None where nothing asks for it.
        mask: (B, 1, H, W) bool, False in the padding; None where there is none.
        positions: every position of the map, (B, H * W, C), and the mask (B, H * W) of the valid ones or None.
    """

    def __init__(self, map: Tensor, valid: ValidSizes | None = None, *, stride: int | None = None) -> None:
        self.map, self.valid, self.stride = map, valid, stride
        self.mask = None if valid is None else valid.mask()
        self.positions = to_tokens(map), None if self.mask is None else self.mask.flatten(1)

    @staticmethod
    def of(map: Tensor, images: ValidSizes | None, *, stride: int | None = None) -> Level:
        """From a map of any size and the valid sizes of the images that it comes from; the padding becomes zero."""
        if images is None:
            return Level(map, stride=stride)
        valid = images.at(map.shape[-2:])
        return Level(map.masked_fill(~valid.mask(), 0), valid, stride=stride)

    def again(self) -> Level:
        """The same without what has been computed of it."""
        return Level(self.map, self.valid, stride=self.stride)

    @_once
    def mean(self) -> Tensor:
        """The mean of the valid positions: (B, C, 1, 1)."""
        if self.valid is None:
            return self.map.mean((2, 3), keepdim=True)
        total = self.map.sum((2, 3), keepdim=True, dtype=torch.promote_types(self.map.dtype, torch.float32))
        return (total / self.valid.tensor.prod(1)[:, None, None, None]).to(self.map.dtype)

    def without_padding(self, x: Tensor) -> Tensor:
        """``x`` of this level's size with zeros in the padding, as a convolution sees them beyond a border."""
        return x if self.mask is None else x.masked_fill(~self.mask, 0)

    def normalize(self, norm: nn.Module, x: Tensor) -> Tensor:
        """``norm(x)`` with statistics over the valid positions of (B, C, H, W) of this level's size."""
        return masked_norm(norm, x, self.mask)

    def tokens(self, stride: int = 1, max_tokens: int = 0) -> tuple[Tensor, Tensor | None]:
        """The map as a set of keys, averaged over cells so that there are fewer; averages run over valid positions.

        Args:
            stride: side of the cells that are averaged first; 1 keeps all.
            max_tokens: at most this many cells an image, of one size within an image, the aspect kept; 0 is no bound.
                The cells follow each image's own valid size, so that they do not depend on the padding.

        Returns:
            (B, K, C) and the mask (B, K) of the valid ones, or None where all are.
        """
        level = self if stride == 1 else self.pooled(stride)
        if max_tokens > 0 and (is_recorded() or (level.valid is not None and level.valid.numbers is None)):
            return _pool_in_graph(level, max_tokens)
        if 0 < max_tokens < level.map.shape[2] * level.map.shape[3]:
            return _pool(level, max_tokens)
        return level.positions

    def pooled(self, ratio: int) -> Level:
        """Averages over cells of that side; those that an image's border cuts over what they have of it."""
        x = F.avg_pool2d(self.map, ratio, ceil_mode=True, count_include_pad=False)
        stride = None if self.stride is None else self.stride * ratio
        if self.valid is None or self.mask is None:
            return Level(x, stride=stride)
        share = F.avg_pool2d(self.mask.to(x.dtype), ratio, ceil_mode=True, count_include_pad=False)
        x = x / share.clamp(min=torch.finfo(x.dtype).tiny)
        numbers = self.valid.numbers
        cells = None if numbers is None else [(_ceil(h, ratio), _ceil(w, ratio)) for h, w in numbers]
        return Level(x, ValidSizes((x.shape[2], x.shape[3]), _ceil(self.valid.tensor, ratio), cells), stride=stride)


def _ceil(a: Any, b: Any) -> Any:
    """``a / b`` rounded up, of numbers or tensors; ``-(-a // b)`` is another number in ONNX, which rounds towards 0."""
    return (a + b - 1) // b


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def grid_size(height: int, width: int, max_tokens: int) -> tuple[int, int]:
    """The largest grid of about the aspect of a map with at most ``max_tokens`` cells; the map itself if it fits."""
    # No side vanishes; the other one then takes the budget.
    rows = min(max(1, math.isqrt(height * max_tokens // width)), height, max_tokens)
    return rows, min(max(1, math.isqrt(width * max_tokens // height)), width, max_tokens // rows)


def grid_sizes(height: Tensor, width: Tensor, max_tokens: int) -> tuple[Tensor, Tensor]:
    """:func:`grid_size` of integers (B,), by the same integer arithmetic."""
    budget = torch.full_like(height, max_tokens)
    rows = torch.minimum(_square_root(height * budget // width).clamp(1, max_tokens), height)
    columns = torch.minimum(_square_root(width * budget // height).clamp(min=1), width)
    return rows, torch.minimum(columns, budget // rows)


def _square_root(x: Tensor) -> Tensor:
    """The integer part of the root, exact: a float one gave other grids eagerly than in a graph, and by processor."""
    root = x.double().sqrt().long()
    return root - (root * root > x).long() + ((root + 1) * (root + 1) <= x).long()


def _pool(level: Level, max_tokens: int) -> tuple[Tensor, Tensor | None]:
    x, sizes = level.map, None if level.valid is None else level.valid.numbers
    if not sizes:
        return to_tokens(F.adaptive_avg_pool2d(x, grid_size(x.shape[2], x.shape[3], max_tokens))), None
    tokens, masks = [], []
    for image, (height, width) in zip(x, sizes):
        pooled = F.adaptive_avg_pool2d(image[:, :height, :width], grid_size(height, width, max_tokens)).flatten(1)
        missing = max_tokens - pooled.shape[1]
        tokens.append(F.pad(pooled, (0, missing)))
        masks.append(F.pad(x.new_ones(pooled.shape[1], dtype=torch.bool), (0, missing)))
    return torch.stack(tokens).transpose(1, 2), torch.stack(masks)


def _pool_in_graph(level: Level, max_tokens: int) -> tuple[Tensor, Tensor]:
    """:func:`_pool` without sizes that Python has to know: a recorded graph serves images of other sizes.

    The grid keeps the map's size (H, W); an image's cells are in its upper left corner.
    """
    x = level.map
    sizes = valid_sizes(torch.ones_like(x[:, :1])) if level.valid is None else level.valid.tensor
    height, width = sizes.unbind(1)
    rows, columns = grid_sizes(height, width, max_tokens)
    grid = _cell_means(_cell_means(x.double(), 2, height, rows), 3, width, columns).to(x.dtype)
    token = _places(x, max_tokens)
    used = token < (rows * columns).unsqueeze(1)  # (B, K)
    columns = columns.unsqueeze(1)
    cell = (token // columns * x.shape[3] + token % columns).masked_fill(~used, 0)
    return to_tokens(grid).gather(1, cell.unsqueeze(2).expand(-1, -1, x.shape[1])), used


def _places(x: Tensor, max_tokens: int) -> Tensor:
    """0, 1, 2, ... up to the smaller one of positions and budget; an exported graph shall not ask which one it is."""
    count = x.shape[2] * x.shape[3]
    if torch.compiler.is_compiling():
        return torch.arange(torch.sym_min(count, max_tokens), device=x.device)
    return torch.arange(count, device=x.device)[:max_tokens]


def _cell_means(x: Tensor, dim: int, length: Tensor, cells: Tensor) -> Tensor:
    """Means along a dimension of the first ``length`` positions in ``cells`` cells, as differences of running sums.

    Args:
        x: (B, C, H, W). length, cells: (B,) integers; the cells' borders are those of ``adaptive_avg_pool2d``.

    Returns:
        (B, C, H, W), the means in the first ``cells`` places of the dimension.
    """
    length, cells = length.unsqueeze(1), cells.unsqueeze(1)
    cell = torch.minimum(torch.arange(x.shape[dim], device=x.device), cells - 1)  # (B, H or W)
    start, end = cell * length // cells, _ceil((cell + 1) * length, cells)
    sums = F.pad(x.cumsum(dim), (0, 0, 1, 0) if dim == 2 else (1, 0))
    low, high, count = (t.view(t.shape[0], 1, *((-1, 1) if dim == 2 else (1, -1))) for t in (start, end, end - start))
    return (sums.gather(dim, high.expand_as(x)) - sums.gather(dim, low.expand_as(x))) / count
