"""3x3 convolutions by Winograd's algorithm F(4x4, 3x3), where it is faster: on the CPU, for wide maps.

A tile of 4x4 outputs reads 6x6 inputs d. With a kernel g it is ``A^T [(G g G^T) * (B^T d B)] A`` (Lavin and Gray, Fast
Algorithms for Convolutional Neural Networks, CVPR 2016): 36 products for each pair of channels in place of 144. They
are 36 matrix products over the channels of many tiles; the transforms around them cost the more, the fewer channels
there are. In training the gradient of the input is such a convolution too; that of the kernel is PyTorch's.

Shape legend: B batch, C input channels, O output channels, H x W map, h x w tiles of a block, T = h * w.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd.forward_ad import unpack_dual

from .plain import is_plain

TILE = 4
# Tiles that are computed together; 128 to 1024 take about the same time. Two buffers of 36 * BLOCK * max(C, O) numbers,
# 18 MiB for 256 channels, and the transformed kernel, four times a weight, are all the memory beside the output.
BLOCK = 256
# From how many channels (the harmonic mean of C and O), and tiles times channels, it is taken. On one thread of a
# processor with AVX-512 its time over that of PyTorch's convolution was, channels first / last,
#
#   C = O    25 x 42        50 x 84        100 x 168      200 x 336
#   256      0.73 / 0.69    0.60 / 0.55    0.56 / 0.54    0.53 / 0.50
#   128      0.99 / 0.93    0.81 / 0.71    0.71 / 0.65    0.63 / 0.66
#    64      1.61 / 1.29    1.22 / 1.00    1.03 / 0.95    1.05 / 1.01
#
# and on two free cores 0.54 / 0.51 at 100 x 168. Where other work holds the cores, its threads wait for one another
# more often than those of a convolution, which is one step: give it no more threads than there are free cores.
# Forward and backward pass together, for 256 channels first: 0.91 at 32 x 32, 0.74 at 100 x 168, 0.69 at 200 x 336.
MIN_CHANNELS = 128
MIN_WORK = 64 * 256
# Where the polynomials of the algorithm are evaluated, beside infinity. Points that come with their inverses keep the
# numbers of one magnitude: the error is a third to a quarter of that of the usual 0, 1, -1, 2, -2.
POINTS = (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))


def _transforms() -> tuple[Tensor, Tensor, Tensor]:
    """B^T, G and A^T, each as one matrix that acts on rows and columns of a tile at once.

    The algorithm is the transpose of a multiplication of two polynomials, of 3 and 4 coefficients, by their values.
    """
    points = torch.tensor(POINTS, dtype=torch.float64, device="cpu")
    values = torch.stack([points**power for power in range(6)], dim=1)
    infinity = torch.tensor([[0, 0, 0, 0, 0, 1]], dtype=torch.float64, device="cpu")
    values = torch.cat((values, infinity))  # (6, 6): of a polynomial's coefficients its values
    kernel, tile = (torch.cat((values[:5, :n], infinity[:, -n:])) for n in (3, 4))
    matrices = values.inverse().t(), kernel, tile.t()
    to_data, to_kernel, to_tile = (torch.kron(m, m).float().contiguous() for m in matrices)
    return to_data, to_kernel, to_tile


TO_DATA, TO_KERNEL, TO_TILE = _transforms()  # (36, 36), (36, 9), (16, 36)


def convolve(conv: nn.Module, x: Tensor, *, add_to: Tensor | None = None) -> Tensor:
    """``conv(x)``; a plain 3x3 convolution is computed by Winograd's algorithm where that is faster, and not called.

    Args:
        conv: any module. x: (B, C, H, W).
        add_to: (B, O, H, W), what the result is added to in place.

    Returns:
        (B, O, H, W).
    """
    if _keeps_size(conv) and applies(x, conv.weight, conv.bias) and is_plain(conv, nn.Conv2d):
        return winograd_conv3x3(x, conv.weight, conv.bias, add_to=add_to)
    y: Tensor = conv(x)
    if add_to is None:
        return y
    add_to += y
    return add_to


def applies(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the algorithm should and may compute the 3x3 convolution of (B, C, H, W) with (O, C, 3, 3)."""
    # First of all: in a graph a size is not a number, and a question about it would be recorded.
    is_recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if is_recorded or torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active():
        return False
    if x.dim() != 4 or x.shape[1] != weight.shape[1]:  # a single image, or what PyTorch refuses in its own words
        return False
    return is_faster(x.shape, weight.shape) and all(_is_ordinary(t) for t in (x, weight, bias) if t is not None)


def is_faster(x: torch.Size, weight: torch.Size) -> bool:
    """Whether it was measured to be faster for these shapes, channels first or last."""
    tiles = -(-x[2] // TILE) * -(-x[3] // TILE)
    channels = 2 * weight[0] * weight[1] / (weight[0] + weight[1])
    return channels >= MIN_CHANNELS and tiles * channels >= MIN_WORK


def _is_ordinary(t: Tensor) -> bool:
    """No tensor of a subclass (quantised, without data, ...), of many gradients at once or of the forward mode."""
    is_float = t.dtype == torch.float32 and t.device.type == "cpu" and t.layout == torch.strided
    is_followed = is_legacy_batchedtensor(t) or unpack_dual(t).tangent is not None
    return type(t) in (Tensor, nn.Parameter) and is_float and not is_followed


def winograd_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, add_to: Tensor | None = None) -> Tensor:
    """The convolution of stride 1 and padding 1, with the derivatives of the backward mode.

    Args:
        x: (B, C, H, W), float32, of any strides. weight: (O, C, 3, 3). bias: (O) or None.
        add_to: (B, O, H, W), what the result is added to in place; None for a new map, channels last where ``x`` is.
    """
    if torch.is_grad_enabled():
        y: Tensor = _Winograd.apply(x, weight, bias)
        return y if add_to is None else add_to.add_(y)
    batch, channels, height, width = x.shape
    out = _empty(x, len(weight)) if add_to is None else add_to
    blocks = list(_blocks(height, width))
    tiles = max(h * w for _, _, h, w in blocks)
    buffers = x.new_empty(2, 36 * tiles * max(channels, len(weight)))
    # Made anew each time, at the cost of a few tiles: all kernels of a neck kept would be four times its weights.
    kernel = (TO_KERNEL @ weight.reshape(-1, 9).t()).unflatten(1, weight.shape[:2])  # (36, O, C)
    for image, whole in zip(x, out):
        for top, left, h, w in blocks:
            place = whole[:, top : top + TILE * h, left : left + TILE * w]
            data = _to_data(image, top, left, h, w, *buffers)
            tile = _to_pixels(data, kernel, h, w, *buffers, channels_last=out.stride(1) == 1)
            tile = tile[:, : place.shape[1], : place.shape[2]]
            if bias is not None:
                tile += bias[:, None, None]
            if add_to is None:
                place.copy_(tile)
            else:
                place += tile
    return out


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return winograd_conv3x3(x, weight, bias)  # here gradients are off

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
        turned, grad_x = weight.flip(2, 3).transpose(0, 1), None
        # Not where this derivative may be differentiated in its turn (create_graph): PyTorch's can be.
        if needed[0] and not torch.is_grad_enabled() and applies(grad, turned):
            grad_x, needed = winograd_conv3x3(grad, turned), (False, *needed[1:])
        others = (None, None, None)
        if any(needed):
            geometry = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, ..., groups
            others = torch.ops.aten.convolution_backward(grad, x, weight, [len(weight)], *geometry, needed)
        return others[0] if grad_x is None else grad_x, *others[1:]


def _keeps_size(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a 3x3 convolution of stride 1 over zeros around the map."""
    if type(conv) is not nn.Conv2d or conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation) == ((3, 3), (1, 1), (1, 1), (1, 1))


def _empty(x: Tensor, channels: int) -> Tensor:
    layout = torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
    return torch.empty(x.shape[0], channels, *x.shape[2:], dtype=x.dtype, device=x.device, memory_format=layout)


def _blocks(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top and left position of the blocks that cover a map, and their height and width in tiles."""
    rows, columns = -(-height // TILE), -(-width // TILE)
    w = min(columns, BLOCK)
    h = min(rows, BLOCK // w)
    h = -(-rows // -(-rows // h))  # all of about one height: a low one at the end would be slow
    for top in range(0, rows, h):
        for left in range(0, columns, w):
            yield TILE * top, TILE * left, min(h, rows - top), min(w, columns - left)


def _to_data(image: Tensor, top: int, left: int, h: int, w: int, first: Tensor, second: Tensor) -> Tensor:
    """``B^T d B`` of every tile: a block of (C, H, W) -> (36, T, C) in the second buffer."""
    channels = image.shape[0]
    inside = image[:, max(top - 1, 0) : top + TILE * h + 1, max(left - 1, 0) : left + TILE * w + 1]
    around = _part(second, TILE * h + 2, TILE * w + 2, channels)
    y, x = int(top == 0), int(left == 0)
    y_end, x_end = y + inside.shape[1], x + inside.shape[2]
    for border in (around[:y], around[y_end:], around[:, :x], around[:, x_end:]):
        border.zero_()
    around[y:y_end, x:x_end] = inside.permute(1, 2, 0)
    patches = around.unfold(0, 6, TILE).unfold(1, 6, TILE)  # (h, w, C, 6, 6)
    windows = _part(first, 6, 6, h, w, channels).copy_(patches.permute(3, 4, 0, 1, 2))
    data = _part(second, 36, h * w * channels)
    return torch.mm(TO_DATA, windows.view(36, -1), out=data).view(36, h * w, channels)


def _to_pixels(
    data: Tensor, kernel: Tensor, h: int, w: int, first: Tensor, second: Tensor, *, channels_last: bool
) -> Tensor:
    """The outputs of a block from the transformed inputs (36, T, C) and kernel (36, O, C): (O, 4 h, 4 w)."""
    tiles, channels = h * w, kernel.shape[1]
    if channels_last:
        products = torch.bmm(data, kernel.transpose(1, 2), out=_part(first, 36, tiles, channels))
    else:
        products = torch.bmm(kernel, data.transpose(1, 2), out=_part(first, 36, channels, tiles))
    outputs = torch.mm(TO_TILE, products.view(36, -1), out=_part(second, 16, tiles * channels))
    if channels_last:
        pixels = _part(first, h, TILE, w, TILE, channels)
        pixels.copy_(outputs.view(TILE, TILE, h, w, channels).permute(2, 0, 3, 1, 4))
        return pixels.view(TILE * h, TILE * w, channels).permute(2, 0, 1)
    pixels = _part(first, channels, h, TILE, w, TILE)
    pixels.copy_(outputs.view(TILE, TILE, channels, h, w).permute(2, 3, 0, 4, 1))
    return pixels.view(channels, TILE * h, TILE * w)


def _part(buffer: Tensor, *shape: int) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)
