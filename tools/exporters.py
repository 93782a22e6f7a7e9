"""Formats that a model is exported to, and the comparison of what was exported with the model."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet
from torch import Tensor, nn

from fpt_d2.core import LocalGroundingTransformer
from fpt_d2.errors import UserError

Runner = Callable[[Tensor], Sequence[Tensor]]

# The first is exported with, the second shows whether sizes were left open. Both are multiples of every stride.
IMAGE_SIZES = ((256, 320), (192, 448))


def check_format(model: nn.Module, export_format: str) -> None:
    """Raises UserError if the format cannot take the model, or needs packages that are not installed."""
    square_sizes = [m.square_size for m in model.modules() if isinstance(m, LocalGroundingTransformer)]
    if export_format != "compile" and square_sizes:
        raise UserError(
            f"MODEL.FPT.GT_SQUARE_SIZE is {square_sizes[0]}, which ties a {export_format} graph to one image size: "
            "export a model that was trained with GT_SQUARE_SIZE 0"
        )
    if export_format == "onnx":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(f"--format onnx needs more packages: pip install {' '.join(missing)}")


class BackboneMaps(nn.Module):
    """A backbone's maps as a tuple, fine to coarse: not every format knows names."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) normalized image -> (1, C_n, H_n, W_n) of every level."""
        return tuple(self.backbone(images).values())


def traceable_model(model: nn.Module, image: Tensor) -> nn.Module:
    """The whole model, from a (3, H, W) image with values up to 255 to the fields of its instances.

    Raises:
        UserError: Detectron2 cannot trace it.
    """
    if isinstance(model, PanopticFPN) or not isinstance(model, GeneralizedRCNN | RetinaNet):
        raise UserError(f"a {type(model).__name__} cannot be traced as a whole; export its backbone: --format onnx")

    def inference(model: GeneralizedRCNN, inputs: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
        # Masks stay those of the boxes: pasting them into the image is left to the caller, as in Detectron2.
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    return TracingAdapter(model, [{"image": image}], None if isinstance(model, RetinaNet) else inference)


def export_torchscript(module: nn.Module, example: Tensor, folder: Path, divisor: int) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the comparison shows what it warns of
        torch.jit.save(torch.jit.trace(module, (example,), check_trace=False), folder / "model.ts")
    return torch.jit.load(folder / "model.ts")


def export_torch_export(module: nn.Module, example: Tensor, folder: Path, divisor: int) -> Runner:
    program = torch.export.export(module, (example,), dynamic_shapes=_open_sizes(divisor))
    torch.export.save(program, folder / "backbone.pt2")
    return torch.export.load(folder / "backbone.pt2").module()


def export_onnx(module: nn.Module, example: Tensor, folder: Path, divisor: int) -> Runner:
    import onnxruntime

    path, names = folder / "backbone.onnx", list(module.backbone.output_shape())
    options = {"dynamo": True, "dynamic_shapes": _open_sizes(divisor), "output_names": names}
    torch.onnx.export(module, (example,), path, input_names=["images"], **options)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.cpu().numpy()})]


def _open_sizes(divisor: int) -> dict[str, dict[int, Any]]:
    """Any height and width that the backbone takes: multiples of its largest stride, as ImageList pads them."""
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    return {"images": {2: divisor * height, 3: divisor * width}}


def export_compile(
    module: nn.Module, example: Tensor, folder: Path, divisor: int, backend: str | Callable = "inductor"
) -> Runner:
    return torch.compile(module, dynamic=True, backend=backend)


EXPORTERS = {
    "torchscript": export_torchscript,
    "torch_export": export_torch_export,
    "onnx": export_onnx,
    "compile": export_compile,
}


def export(model: nn.Module, export_format: str, folder: Path) -> float:
    """Export a model and run both.

    Args:
        model: in eval mode.
        export_format: a key of :data:`EXPORTERS`.
        folder: where the file goes; it exists.

    Returns:
        The largest difference between an output of the model and of what was exported, as a share of that output's
        largest value, over images of :data:`IMAGE_SIZES`; infinity where shapes differ.

    Raises:
        UserError: the format cannot take the model.
    """
    check_format(model, export_format)
    generator = torch.Generator().manual_seed(0)
    images = [(255 * torch.rand(3, *size, generator=generator)).to(model.pixel_mean.device) for size in IMAGE_SIZES]
    if export_format == "torchscript":
        module = traceable_model(model, images[0])
    else:
        module = BackboneMaps(model.backbone).eval()
        images = [((image - model.pixel_mean) / model.pixel_std).unsqueeze(0) for image in images]
    try:
        with torch.no_grad():
            run = EXPORTERS[export_format](module, images[0], folder, max(model.backbone.size_divisibility, 1))
            return max(_difference(a, b) for image in images for a, b in zip(run(image), module(image)))
    except OSError:
        raise
    except Exception as error:  # of every exporter and runtime its own kinds
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"{export_format} does not take this model ({type(error).__name__}: {reason}): try another --format, or "
            "the trunk, the heads and the MODEL.FPT options of a config that exports"
        ) from error


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double().cpu(), b.double().cpu()
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if b.numel() > 0 else 0.0
