"""torch.compile, torch.jit.trace and torch.export record the plain form: the same numbers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fpt_d2.core import (
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidNeck,
    PyramidTransform,
    SelfTransformer,
    ValidSizes,
    mixture_attention,
)

from .cases import images, pyramid_features, randomize, relative_error

STRIDES = {"p2": 4, "p3": 8}
SIZES = {"p2": (8, 12), "p3": (4, 6)}
LARGER = {"p2": (12, 20), "p3": (6, 10)}
SMALLER = {"p2": (4, 6), "p3": (2, 3)}
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")

GT = partial(GroundingTransformer, num_parts=2)
BOUND = {"st": partial(SelfTransformer, max_kv_tokens=20), "gt": partial(GT, max_kv_tokens=20)}
LOCAL = {"gt": partial(LocalGroundingTransformer, square_size=3, num_parts=2)}
LINEAR = {"gt": partial(LinearGroundingTransformer, kv_stride=2), "st": partial(SelfTransformer, kv_stride=2)}


class OnTuples(nn.Module):
    """Recorders want tensors in and out: the images, whose padding is read, and the maps of a neck."""

    def __init__(self, gt=GT, **options):
        super().__init__()
        transform = PyramidTransform(STRIDES, 4, channels=4, gt=gt, **options)
        self.neck = randomize(PyramidNeck(transform, 4, 4, norm=partial(nn.GroupNorm, 2)).double())

    def forward(self, x, p2, p3):
        out = self.neck({"p2": p2, "p3": p3}, ValidSizes.read(x))
        return out["p2"], out["p3"]


def inputs(sizes=SIZES, batch=2):
    height, width = (4 * side for side in sizes["p2"])
    x = images((height, width), (height, width), *[(height - 7, width // 2)] * (batch - 1))
    return (x, *pyramid_features(sizes, 4, batch=batch).values())


def assert_same(recorded, module, arguments, tolerance=1e-12):
    for a, b in zip(recorded(*arguments), module(*arguments)):
        assert relative_error(a, b) < tolerance


@pytest.mark.parametrize("options", [{}, LINEAR, BOUND])
def test_trace_at_other_sizes(options):
    module = OnTuples(**options).eval()
    with torch.no_grad():
        traced = torch.jit.trace(module, inputs(), check_trace=False)
        for arguments in (inputs(), inputs(LARGER), inputs(SMALLER), inputs(batch=3), inputs(batch=1)):
            assert_same(traced, module, arguments)


def test_trace_of_an_attention_scales_as_the_eager_one():
    """A size is a tensor in a trace."""
    q, k, v = (torch.randn(1, n, 3, dtype=torch.float64) for n in (9, 7, 7))
    gate = torch.ones(1, 1, dtype=torch.float64)
    traced = torch.jit.trace(mixture_attention, (q, k, v, gate), check_trace=False)
    assert relative_error(traced(q, k, v, gate), mixture_attention(q, k, v, gate)) < 1e-14


def test_trace_at_one_size():
    """Tiles make the graph one of its size."""
    module = OnTuples(**LOCAL).eval()
    with torch.no_grad():
        assert_same(torch.jit.trace(module, inputs(), check_trace=False), module, inputs())


def test_export_with_dynamic_batch_and_size():
    """One program for maps of more positions than the bound of one branch and of fewer; the other has none."""
    module = OnTuples(st=BOUND["st"]).eval()
    batch, h, w = (torch.export.Dim(n, min=2, max=64) for n in ("batch", "h", "w"))
    shapes = tuple({0: batch, 2: r * h, 3: r * w} for r in (8, 2, 1))
    program = torch.export.export(module, inputs(), dynamic_shapes=shapes)
    for arguments in (inputs(), inputs(LARGER, batch=3), inputs(SMALLER)):
        assert_same(program.module(), module, arguments)


def test_compile_gives_the_same_values_and_gradients():
    module = OnTuples(**LOCAL)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_same(compiled, module, inputs())
    gradients = []
    for function in (module, compiled):
        module.zero_grad()
        sum(y.square().sum() for y in function(*inputs())).backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    for a, b in zip(*gradients):
        assert relative_error(a, b) < 1e-10 or (a - b).abs().max() < 1e-12
