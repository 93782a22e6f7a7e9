"""An exported backbone computes what the model's computes, at an image size that it was not exported with too."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from fpt_d2.core.level import grid_size
from fpt_d2.errors import UserError
from fpt_d2.export import backbone
from fpt_d2.export.backbone import export_backbone

from .models import MAX_KV_TOKENS, small_config, two_levels, with_statistics


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of every test, whichever run


def mask_rcnn(**options: Any) -> nn.Module:
    return with_statistics(build_model(two_levels(small_config(**options))))


def test_the_bound_is_reached_by_other_grids_at_the_two_sizes() -> None:
    for stride in (4, 8, 16, 32):
        sizes = [(height // stride, width // stride) for height, width in backbone.IMAGE_SIZES]
        assert all(height * width > MAX_KV_TOKENS for height, width in sizes)
        assert len({grid_size(*size, MAX_KV_TOKENS) for size in sizes}) == 2


@pytest.mark.parametrize("export_format", ["torchscript", "torch_export"])
@pytest.mark.parametrize("bound", [MAX_KV_TOKENS, 0])
def test_torch_formats(export_format: str, bound: int, tmp_path: Path) -> None:
    assert export_backbone(mask_rcnn(MAX_KV_TOKENS=bound), export_format, tmp_path) < 1e-5
    assert [path.stem for path in tmp_path.iterdir()] == ["backbone"]


def test_onnx(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    assert export_backbone(mask_rcnn(), "onnx", tmp_path) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["backbone.onnx"]


def test_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of torch.compile but the code generation of its default backend, which takes minutes on a CPU.
    backend = CompileCounterWithBackend("eager")
    compile = functools.partial(backbone.export_compile, backend=backend)
    monkeypatch.setitem(backbone.EXPORTERS, "compile", compile)
    assert export_backbone(mask_rcnn(), "compile", tmp_path) < 1e-5
    assert backend.frame_count == 1  # one graph for both sizes
    assert not list(tmp_path.iterdir())


def test_a_wrong_export_is_seen_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced_with_fixed_size(module: nn.Module, example: torch.Tensor, path: Path, divisor: int) -> Any:
        path.write_bytes(b"a file")
        shapes = [x.shape for x in module(example)]
        return lambda images: [x.new_zeros(shape) for x, shape in zip(module(images), shapes)]

    monkeypatch.setitem(backbone.EXPORTERS, "torchscript", traced_with_fixed_size)
    assert export_backbone(mask_rcnn(), "torchscript", tmp_path) == float("inf")
    assert not list(tmp_path.iterdir())


def test_a_failing_exporter_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("Guard failed: 2 * s == 7\n\n  and forty more lines")

    monkeypatch.setitem(backbone.EXPORTERS, "torch_export", failing)
    with pytest.raises(
        UserError, match="torch_export does not take this model .RuntimeError: Guard .*another --format"
    ):
        export_backbone(mask_rcnn(), "torch_export", tmp_path)
