"""UFP: its levels, their fusion with the branches, grounding within squares between levels of one size, padding."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from fpt_d2.checkpoint.names import is_fpt
from fpt_d2.core import (
    GroundingTransformer,
    Level,
    LocalGroundingTransformer,
    PyramidTransform,
    mixture_attention,
    mixture_gate,
)
from fpt_d2.core.level import to_tokens
from fpt_d2.modeling.ufp import UFP, GlobalConv, ufp_strides

WIDTH = 8


class Patches(Backbone):
    """The simplest trunk: each position sees its own patch, so that nothing leaks into or out of padding."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.res4 = nn.Conv2d(3, 5, stride, stride=stride)
        self.res5 = nn.Conv2d(5, 6, 1)

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"res4": ShapeSpec(channels=5, stride=self.stride), "res5": ShapeSpec(channels=6, stride=self.stride)}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        res4 = self.res4(x)
        return {"res4": res4, "res5": self.res5(res4)}


def build(
    stride: int = 8, kernels: Sequence[int] = (1, 7, 15, 31), square_size: int = 5, fpt: bool = True, **options: Any
) -> UFP:
    torch.manual_seed(0)
    if fpt and "transform" not in options:
        strides = ufp_strides(kernels, stride)
        gt = partial(LocalGroundingTransformer, square_size=square_size) if square_size else GroundingTransformer
        options["transform"] = PyramidTransform(strides, WIDTH, channels=WIDTH, gt=gt)
    options.setdefault("zero_init_fuse", False)
    return UFP(Patches(stride), "res5", WIDTH, kernels=kernels, **options).double().eval()


def images(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [8, 16])
def test_levels_are_of_one_size_and_shapes_are_as_announced(stride: int) -> None:
    ufp = build(stride)
    out = ufp(images(2, 3, 48, 80))
    assert list(out) == ["res4", "res5", "u1", "u7", "u15", "u31"]
    assert ufp.size_divisibility == stride
    for name, shape in ufp.output_shape().items():
        assert out[name].shape == (2, shape.channels, 48 // stride, 80 // stride) and shape.stride == stride


def test_every_parameter_is_used() -> None:
    ufp = build()
    sum(x.square().mean() for x in ufp(images(1, 3, 32, 32)).values()).backward()
    assert [name for name, p in ufp.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_global_conv_is_a_large_dense_kernel_that_is_separable(kernel: int) -> None:
    conv = GlobalConv(3, 4, kernel).double()
    x = images(1, 3, 6, 9)
    dense = torch.zeros(4, 3, kernel, kernel, dtype=torch.float64)
    for path in conv.paths:
        weights = [layer.weight for layer in path]
        if kernel == 1:
            dense += weights[0]
        elif weights[0].shape[2] == kernel:  # k x 1, then 1 x k
            dense += torch.einsum("oml,mik->oikl", weights[1][:, :, 0], weights[0][..., 0])
        else:
            dense += torch.einsum("omk,mil->oikl", weights[1][..., 0], weights[0][:, :, 0])
    torch.testing.assert_close(conv(x), F.conv2d(x, dense, padding=kernel // 2), rtol=0, atol=1e-12)


def test_fusion_is_the_papers_convolution_over_the_concatenation() -> None:
    ufp = build()
    x = images(2, 3, 40, 48)
    feature = ufp.bottom_up(x)["res5"]
    source = {n: conv(feature) for n, conv in ufp.global_conv.items()}
    branches, out = ufp.fpt(source), ufp(x)
    for level in ufp.levels:
        output = ufp.ufp_output[level]
        concat = torch.cat((source[level], branches[level]), 1)
        weight = torch.cat([output.weight, *(conv.weight for conv in output.fuse)], 1)
        expected = F.conv2d(concat, weight, output.bias, padding=1)
        torch.testing.assert_close(out[level], expected, rtol=0, atol=1e-12)


def test_zero_start_is_plain_ufp() -> None:
    with_fpt, plain = build(zero_init_fuse=True), build(fpt=False)
    plain.load_state_dict({k: v for k, v in with_fpt.state_dict().items() if not is_fpt(k)})
    x = images(1, 3, 40, 48)
    for level, expected in plain(x).items():
        torch.testing.assert_close(with_fpt(x)[level], expected, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(4, 6), (5, 5), (1, 3)])
def test_a_square_over_the_whole_map_is_global_grounding_with_zeros_around_the_map(size: tuple[int, int]) -> None:
    """The border rule: a position outside the map has key and value 0 and keeps its share of the softmax."""
    side = 2 * max(size) - 1  # covers the map from each of its corners
    edge = build(square_size=side).fpt.gt["u1_u31"]
    nn.init.normal_(edge.key.bias), nn.init.normal_(edge.value.bias)  # what is outside has no bias either
    fine, coarse = images(2, 2, WIDTH, *size)
    q, k, v = edge.query(to_tokens(fine)), edge.key(to_tokens(coarse)), edge.value(to_tokens(coarse))
    gate = mixture_gate(k, edge.gate)
    k, v = (F.pad(t, (0, 0, 0, side * side - size[0] * size[1])) for t in (k, v))
    expected = mixture_attention(q, k, v, gate, similarity="euclidean").transpose(1, 2).unflatten(2, size)
    torch.testing.assert_close(edge(Level(fine), Level(coarse)), expected, rtol=0, atol=1e-12)


def test_a_square_of_one_passes_on_the_value_at_the_same_place() -> None:
    edge = build(square_size=1).fpt.gt["u7_u15"]
    fine, coarse = images(2, 2, WIDTH, 5, 7)
    expected = F.conv2d(coarse, edge.value.weight[:, :, None, None], edge.value.bias)
    torch.testing.assert_close(edge(Level(fine), Level(coarse)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("square_size", [0, 5])
def test_an_image_has_the_same_features_alone_and_padded_in_a_batch(square_size: int) -> None:
    ufp = build(square_size=square_size)
    batch = images(2, 3, 64, 64)
    batch[1, :, 40:] = 0
    batch[1, :, :, 48:] = 0
    alone, together = ufp(batch[1:, :, :40, :48]), ufp(batch)
    for level in ufp.levels:
        torch.testing.assert_close(together[level][1:, :, :5, :6], alone[level], rtol=0, atol=1e-12)


def test_plain_ufp_ignores_padding_too() -> None:
    ufp = build(fpt=False)
    padded = F.pad(images(1, 3, 40, 48), (0, 16, 0, 24))
    alone, together = ufp(padded[:, :, :40, :48]), ufp(padded)
    for level in ufp.levels:
        torch.testing.assert_close(together[level][:, :, :5, :6], alone[level], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernels", [(), (7, 1), (1, 1), (1, 4), (-1, 3)])
def test_bad_kernels_are_named(kernels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"kernels is \[.*\]; allowed: odd, ascending numbers"):
        build(kernels=kernels, fpt=False)


def test_a_transform_over_other_levels_is_refused() -> None:
    transform = PyramidTransform({"p3": 8, "p4": 8}, WIDTH, channels=WIDTH)
    with pytest.raises(ValueError, match="p3"):
        build(transform=transform)


SHORT_MAP = """
import torch
from fpt_d2.modeling.ufp import GlobalConv
conv = GlobalConv(32, 32, 31)
for height in range(1, 34):
    for _ in range(3):
        conv(torch.randn(2, 32, height, 20)).sum().backward()
        torch.randn(3000)  # memory that is not whole shows when it is asked for
"""


def test_a_kernel_longer_than_the_map_can_be_trained_on_the_cpu() -> None:
    """In a process of its own: where PyTorch writes beyond its memory, it is aborted."""
    environment = os.environ | {"MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", SHORT_MAP], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_padding_for_training_is_that_of_inference() -> None:
    conv, x = GlobalConv(3, 4, 15).double(), images(2, 3, 6, 20)
    with torch.no_grad():
        expected = conv(x)
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)
