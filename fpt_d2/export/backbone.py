"""Export of a backbone alone: from normalised, padded images to the maps of every level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .formats import SUFFIXES, quiet
from .whole import refusal

Runner = Callable[[Tensor], Sequence[Tensor]]

# The first is exported with, the second shows whether sizes were left open. Both are multiples of every stride.
IMAGE_SIZES = ((256, 320), (192, 448))
# Largest difference, relative to the largest value of an output. Reordered float32 sums stay far below.
TOLERANCE = 1e-3


class BackboneMaps(nn.Module):
    """A backbone's maps as a tuple, fine to coarse: not every format knows names."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) normalized image -> (1, C_n, H_n, W_n) of every level."""
        return tuple(self.backbone(images).values())


def export_torchscript(module: nn.Module, example: Tensor, path: Path, divisor: int) -> Runner:
    torch.jit.save(torch.jit.trace(module, (example,), check_trace=False), path)
    return torch.jit.load(path)  # type: ignore[no-any-return]


def export_torch_export(module: nn.Module, example: Tensor, path: Path, divisor: int) -> Runner:
    program = torch.export.export(module, (example,), dynamic_shapes=_open_sizes(divisor))
    torch.export.save(program, path)
    return torch.export.load(path).module()


def export_onnx(module: nn.Module, example: Tensor, path: Path, divisor: int) -> Runner:
    import onnxruntime

    options = {"dynamo": True, "dynamic_shapes": _open_sizes(divisor), "external_data": False}
    options["output_names"] = list(module.backbone.output_shape())  # type: ignore[union-attr, operator]
    torch.onnx.export(module, (example,), path, input_names=["images"], **options)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.cpu().numpy()})]


def _open_sizes(divisor: int) -> dict[str, dict[int, Any]]:
    """Any height and width that the backbone takes: multiples of its largest stride, as ImageList pads them."""
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    return {"images": {2: divisor * height, 3: divisor * width}}


def export_compile(
    module: nn.Module, example: Tensor, path: Path, divisor: int, backend: str | Callable[..., Any] = "inductor"
) -> Runner:
    return torch.compile(module, dynamic=True, backend=backend)


EXPORTERS = {
    "torchscript": export_torchscript,
    "torch_export": export_torch_export,
    "onnx": export_onnx,
    "compile": export_compile,
}


def export_backbone(model: Any, export_format: str, folder: Path) -> float:
    """Write the backbone (``backbone.ts``, ``.pt2``, ``.onnx``, or nothing for "compile"), and run it beside the model.

    Args:
        model: in eval mode.
        export_format: a key of :data:`EXPORTERS`.
        folder: where the file goes; it exists.

    Returns:
        The largest difference between a map of the model and of what was exported, as a share of that map's largest
        value, over images of :data:`IMAGE_SIZES`; infinity where shapes differ. Beyond :data:`TOLERANCE` the file is
        not kept.

    Raises:
        UserError: the format cannot take the backbone.
    """
    generator = torch.Generator().manual_seed(0)
    images = [(255 * torch.rand(3, *size, generator=generator)).to(model.pixel_mean.device) for size in IMAGE_SIZES]
    images = [((image - model.pixel_mean) / model.pixel_std).unsqueeze(0) for image in images]
    module, divisor = BackboneMaps(model.backbone).eval(), max(model.backbone.size_divisibility, 1)
    path = folder / f"backbone{SUFFIXES.get(export_format, '')}"
    unproven = path.with_name(f"unproven-{path.name}")
    try:
        with torch.no_grad(), quiet():
            run = EXPORTERS[export_format](module, images[0], unproven, divisor)
            difference = max(_difference(a, b) for image in images for a, b in zip(run(image), module(image)))
        if difference <= TOLERANCE and unproven.exists():
            unproven.replace(path)
    except OSError:
        raise
    except Exception as error:  # of every exporter and runtime its own kinds
        remedy = "another --format, or the trunk and the MODEL.FPT options of a config that exports"
        raise refusal(export_format, error, remedy) from error
    finally:
        unproven.unlink(missing_ok=True)
    return difference


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double().cpu(), b.double().cpu()
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if b.numel() > 0 else 0.0
