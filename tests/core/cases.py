"""Inputs and comparisons that the tests of the mathematics share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fpt_d2.core import Level, ValidSizes

Size = tuple[int, int]


def attention_inputs(
    seed: int,
    *,
    queries: Sequence[int],
    keys: Sequence[int],
    parts: int,
    batch: int = 2,
    width: int = 4,
    values: int = 6,
    masked: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """q, k, v, gate and key mask or None in float64; channels last for one axis, first for a map's two."""
    random = torch.Generator().manual_seed(seed)

    def draw(positions: Sequence[int], channels: int) -> Tensor:
        shape = (batch, *positions, channels) if len(positions) == 1 else (batch, channels, *positions)
        return torch.randn(shape, dtype=torch.float64, generator=random)

    q, k, v = draw(queries, parts * width), draw(keys, parts * width), draw(keys, values)
    gate = torch.randn(batch, parts, dtype=torch.float64, generator=random).softmax(-1)
    mask = None
    if masked:
        mask = torch.rand(batch, *keys, generator=random) > 0.4
        mask.view(batch, -1)[:, 0] = True
    return q, k, v, gate, mask


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value."""
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def values_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The result, and the gradients of all inputs for a fixed random cotangent."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    random = torch.Generator().manual_seed(0)
    cotangent = torch.randn(out.shape, generator=random, dtype=torch.float64).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent, materialize_grads=True)]


def assert_same(
    fast: Callable[..., Tensor],
    slow: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    tolerance: float,
    dtype: torch.dtype = torch.float64,
) -> None:
    """``fast`` in ``dtype`` equals ``slow`` in float64 on the same rounded inputs: values and all gradients."""
    rounded = [t.to(dtype) for t in inputs]
    actual = values_and_gradients(fast, rounded)
    expected = values_and_gradients(slow, [t.double() for t in rounded])
    for name, a, e in zip(("out", "q", "k", "v", "gate"), actual, expected):
        assert a.dtype == dtype and torch.isfinite(a).all()
        error = relative_error(a, e)
        # a lone part's gradient is a sum that cancels; a zero one leaves nothing to be relative to
        assert error <= tolerance or (a - e).abs().max() <= tolerance * 1e-2, f"{name}: {error:.1e}"


def randomize(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Random values for every parameter, zero-initialised norms and biases included."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64) * fan_in**-0.5)
    return module


def pyramid_features(sizes: Mapping[str, Size], channels: Any, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Random float64 maps by level; ``channels`` one number or by level."""
    random = torch.Generator().manual_seed(seed)
    return {
        n: torch.randn(batch, channels if isinstance(channels, int) else channels[n], h, w, generator=random).double()
        for n, (h, w) in sizes.items()
    }


def valid_sizes(full: Size, *sizes: Size, device: torch.device | str = "cpu") -> ValidSizes:
    """One of ``sizes`` for each image of a batch, in a canvas of size ``full``; also where all fill it."""
    return ValidSizes(full, torch.tensor(sizes, device=device), sizes)


def level(map: Tensor, *sizes: Size) -> Level:
    """With the valid size of each image; the padding, which becomes zero, is all where none is given."""
    return Level.of(map, valid_sizes((map.shape[2], map.shape[3]), *sizes, device=map.device) if sizes else None)


def images(canvas: Size, *sizes: Size) -> Tensor:
    """Random images without a zero, each of its own size, in the upper left corners of a batch."""
    x = torch.zeros(len(sizes), 3, *canvas)
    random = torch.Generator().manual_seed(0)
    for image, (h, w) in zip(x, sizes):
        image[:, :h, :w] = torch.rand(3, h, w, generator=random) + 0.1
    return x
