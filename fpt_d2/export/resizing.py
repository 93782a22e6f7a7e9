"""What Detectron2's predictor does to an image before the model, as operators that a recorded graph can have.

``ResizeShortestEdge`` scales by Pillow, whose bilinear filter computes with whole numbers: weights of 22 bits, and
pixels that are rounded after the columns and after the rows, or the other way round. Here these are two products of
matrices, of whole numbers too, in float64, which holds them exactly: the result is Pillow's, bit for bit.

Shape legend: H x W image, h x w scaled image.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

# A number of pixels: () int64, or torch.export's name of a number.
Length = Any
# Of a weight of Pillow's filter (PRECISION_BITS in its Resample.c).
WEIGHT_BITS = 22


def scaled_size(height: Tensor, width: Tensor, short_side: int, max_size: int) -> tuple[Tensor, Tensor]:
    """``ResizeShortestEdge.get_output_shape``, in the same float64 arithmetic.

    Args:
        height, width: of the image, () int64.
        short_side: ``INPUT.MIN_SIZE_TEST``; 0 leaves the image as it is.
        max_size: ``INPUT.MAX_SIZE_TEST``, of the long side.

    Returns:
        h and w, () int64.
    """
    if short_side == 0:
        return height, width
    sides = torch.stack((height, width)).double()
    # Of shape (1,), for torch's ONNX exporter divides those of shape () in float32; and divided by, not multiplied with
    # what a number over a tensor is made: its reciprocal, which rounds twice.
    shortest = sides.amin(0, keepdim=True)
    scaled = torch.where(sides == shortest, float(short_side), torch.full_like(shortest, short_side) / shortest * sides)
    longest = scaled.amax(0, keepdim=True)
    scaled = torch.where(longest > max_size, torch.full_like(longest, max_size) / longest * scaled, scaled)
    h, w = (scaled + 0.5).floor().long().unbind()
    return h, w


def filter_weights(in_size: Length, out_size: Tensor, num_rows: Length) -> Tensor:
    """Weights of Pillow's bilinear filter along one side, as whole numbers that sum to about 2^22 in a row.

    Args:
        in_size, out_size: lengths before and after, () int64.
        num_rows: () int64, at least ``out_size``: the rows beyond are zero, as padding is.

    Returns:
        (num_rows, in_size) float64.
    """
    rows = torch.arange(num_rows, device=in_size.device)
    scale = in_size.double().reshape(1) / out_size.double().reshape(1)
    stretch = scale.clamp(min=1)  # of a pixel's reach: all pixels of the source count where an image shrinks
    centers = (rows.double() + 0.5) * scale
    positions = torch.arange(in_size, device=in_size.device).double()
    weights = (1 - ((positions - centers.unsqueeze(1) + 0.5) / stretch).abs()).clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-12)
    whole: Tensor = (weights * 2.0**WEIGHT_BITS + 0.5).floor()
    return whole * (rows < out_size).unsqueeze(1)


def resize(image: Tensor, height: Tensor, width: Tensor, rows: Length, columns: Length) -> Tensor:
    """Scale an image as ``PIL.Image.resize`` does with its bilinear filter, and pad it with zeros.

    Args:
        image: (3, H, W) with whole numbers from 0 to 255.
        height, width: h and w, () int64.
        rows, columns: size with the padding at the bottom and the right, () int64.

    Returns:
        (3, rows, columns) float64, whole numbers from 0 to 255.
    """
    (in_height, in_width), x = image_size(image), image.double()
    down, across = filter_weights(in_height, height, rows), filter_weights(in_width, width, columns).t()
    if not pillow_chooses_order():
        return _rounded(down @ _rounded(x @ across))
    rows_first = (height < in_height) & (in_height - height > 2 * (in_width - width))
    # Of the order that is not taken one line is computed; by torch.export, which knows no such slices, all.
    line = slice(None), slice(None)
    if not torch.compiler.is_compiling():
        line = slice(torch.where(rows_first, 1, in_height)), slice(torch.where(rows_first, in_width, 1))
    columns_then_rows = _rounded(down[:, line[0]] @ _rounded(x[:, line[0]] @ across))
    rows_then_columns = _rounded(_rounded(down @ x[:, :, line[1]]) @ across[line[1]])
    return torch.where(rows_first, rows_then_columns, columns_then_rows)


@cache
def pillow_chooses_order() -> bool:
    """Whether the Pillow that is installed, which the predictor scales with, begins with the rows where that removes
    more of the image, as version 13 does: where the height loses more than twice as many pixels as the width. Others
    always begin with the columns."""
    image = Image.frombytes("L", (16, 128), bytes(i * i % 251 for i in range(16 * 128)))
    columns_first = image.resize((8, 128), Image.Resampling.BILINEAR).resize((8, 64), Image.Resampling.BILINEAR)
    return image.resize((8, 64), Image.Resampling.BILINEAR).tobytes() != columns_first.tobytes()


def image_size(image: Tensor) -> tuple[Tensor, Tensor]:
    """H and W as tensors, which a trace keeps open."""
    height, width = image.shape[-2:]
    if torch.compiler.is_compiling():  # torch.export knows numbers by name, and would fix those of as_tensor
        return torch.scalar_tensor(height, dtype=torch.int64), torch.scalar_tensor(width, dtype=torch.int64)
    return torch.as_tensor(height, device=image.device), torch.as_tensor(width, device=image.device)


def _rounded(x: Tensor) -> Tensor:
    return ((x + 2.0 ** (WEIGHT_BITS - 1)) * 2.0**-WEIGHT_BITS).floor().clamp(0, 255)
