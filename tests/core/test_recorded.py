"""torch.compile, torch.jit.trace and torch.export record the plain form: the same numbers."""

import pytest
import torch
from torch import nn

from fpt_d2.core import PyramidTransform

from .cases import pyramid_features, randomize, rectangle_masks, relative_error

STRIDES = {"p2": 4, "p3": 8}
SIZES = {"p2": (8, 12), "p3": (4, 6)}
LARGER = {"p2": (12, 20), "p3": (6, 10)}
VALID = {"p2": (6, 8), "p3": (3, 4)}
TRACED = 1e-7  # a size is a tensor in a trace, and its square root one of float32
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


class OnTuples(nn.Module):
    """Recorders want tensors in and out."""

    def __init__(self, **options):
        super().__init__()
        transform = PyramidTransform(STRIDES, 4, channels=4, gt_num_parts=2, **options)
        self.transform = randomize(transform.double())

    def forward(self, p2, p3, mask2, mask3):
        out = self.transform({"p2": p2, "p3": p3}, {"p2": mask2, "p3": mask3})
        return out["p2"], out["p3"]


def inputs(sizes=SIZES, batch=2):
    features = pyramid_features(sizes, 4, batch=batch)
    masks = rectangle_masks(sizes, [sizes, *[VALID] * (batch - 1)])
    return (*features.values(), *masks.values())


def assert_same(recorded, module, arguments, tolerance=1e-11):
    for a, b in zip(recorded(*arguments), module(*arguments)):
        assert relative_error(a, b) < tolerance


BOUND = {"max_kv_tokens": 20}  # reached by both levels at both sizes


@pytest.mark.parametrize("options", [{}, {"gt_similarity": "dot", "kv_stride": 2}, BOUND])
def test_trace_at_two_sizes(options):
    module = OnTuples(**options).eval()
    with torch.no_grad():
        traced = torch.jit.trace(module, inputs(), check_trace=False)
        for arguments in (inputs(), inputs(LARGER), inputs(batch=3)):
            assert_same(traced, module, arguments, TRACED)


def test_trace_at_one_size():
    """Tiles make the graph one of its size."""
    module = OnTuples(gt_square_size=3).eval()
    with torch.no_grad():
        assert_same(torch.jit.trace(module, inputs(), check_trace=False), module, inputs(), TRACED)


@pytest.mark.parametrize("options", [{}, BOUND])
def test_export_with_dynamic_batch_and_size(options):
    module = OnTuples(**options).eval()
    batch, h, w = (torch.export.Dim(n, min=2, max=64) for n in ("batch", "h", "w"))
    fine, coarse = {0: batch, 1: 2 * h, 2: 2 * w}, {0: batch, 1: h, 2: w}
    maps = tuple({0: batch, 2: d[1], 3: d[2]} for d in (fine, coarse))
    program = torch.export.export(module, inputs(), dynamic_shapes=(*maps, fine, coarse))
    for arguments in (inputs(), inputs(LARGER, batch=3)):
        assert_same(program.module(), module, arguments)


def test_compile_gives_the_same_values_and_gradients():
    module = OnTuples(branches=["st", "gt"], gt_square_size=3)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    assert_same(compiled, module, inputs())
    gradients = []
    for function in (module, compiled):
        module.zero_grad()
        sum(y.square().sum() for y in function(*inputs())).backward()
        gradients.append([p.grad.clone() for p in module.parameters()])
    for a, b in zip(*gradients):
        assert relative_error(a, b) < 1e-10
