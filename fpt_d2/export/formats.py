"""The formats of a whole model: how each is written, and how it is run."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .deployable import Deployable
from .metadata import FILE_NAME, ExportInfo
from .patches import recordable

# From an image (H, W, 3) uint8 to the outputs.
Runner = Callable[[Tensor], Sequence[Tensor]]
SUFFIXES = {"torchscript": ".ts", "torch_export": ".pt2", "onnx": ".onnx"}
# The first with RoIAlign's half pixel; antialiasing, of a later one, is not needed.
OPSET = 17
_AXES = {
    "image": {0: "height", 1: "width"},
    "boxes": {0: "objects"},
    "scores": {0: "objects"},
    "classes": {0: "objects"},
    "masks": {0: "objects", 1: "height", 2: "width"},
    "sem_seg": {1: "height", 2: "width"},
}
_INPUT_DOC = "An image (height, width, 3) uint8 of any size, channels in the order {}; not scaled, not normalised."


def check_packages(export_format: str) -> None:
    """Raises UserError if the format needs packages that are not installed."""
    if export_format == "onnx":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"--format onnx needs more packages: pip install {' '.join(missing)}")


def write_torchscript(module: Deployable, example: Tensor, path: Path, info: ExportInfo) -> Runner:
    with recordable(exported=False), quiet():
        traced = torch.jit.trace(module, (example,), check_trace=False)
        torch.jit.save(traced, path, _extra_files={FILE_NAME: info.as_json()})
        return torch.jit.load(path)  # type: ignore[no-any-return]


def write_torch_export(module: Deployable, example: Tensor, path: Path, info: ExportInfo) -> Runner:
    any_size = {"image": {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}}
    with recordable(exported=True), quiet():
        program = torch.export.export(module, (example,), dynamic_shapes=any_size, strict=False)
        torch.export.save(program, path, extra_files={FILE_NAME: info.as_json()})
        return torch.export.load(path).module()


def write_onnx(module: Deployable, example: Tensor, path: Path, info: ExportInfo) -> Runner:
    import onnx
    import onnxruntime

    axes = {name: _AXES[name] for name in ("image", *module.outputs)}
    names: dict[str, Any] = {"input_names": ["image"], "output_names": list(module.outputs), "dynamic_axes": axes}
    with recordable(exported=False), quiet():
        # By torch.export, torch's other way to ONNX, this takes minutes.
        torch.onnx.export(module, (example,), path, **names, opset_version=OPSET, dynamo=False)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, info.as_properties())
    model.graph.input[0].doc_string = _INPUT_DOC.format(info.pixel_order)
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(x) for x in session.run(None, {"image": image.cpu().numpy()})]


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says to those who trace: the comparison shows what it warns of."""
    loggers = [logging.getLogger(name) for name in ("torch.fx", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


WRITERS = {"torchscript": write_torchscript, "torch_export": write_torch_export, "onnx": write_onnx}
