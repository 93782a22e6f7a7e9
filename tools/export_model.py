#!/usr/bin/env python
"""Export a model, and compare what was exported with the model itself at two image sizes.

--format torchscript    the whole R-CNN or RetinaNet, by tracing                   -> model.ts
--format torch_export   the backbone, by torch.export                              -> backbone.pt2
--format onnx           the backbone (pip install onnx onnxruntime onnxscript)     -> backbone.onnx
--format compile        the backbone under torch.compile; nothing is written

The weights are those of MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR.

Example:
    python tools/export_model.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --format onnx --output exported
"""

import argparse
import importlib.util
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import torch
from detectron2.export import TracingAdapter
from detectron2.modeling import GeneralizedRCNN, PanopticFPN, RetinaNet, build_model
from detectron2.utils.logger import setup_logger
from torch import Tensor, nn

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.core import GroundingTransformer
from fpt_d2.engine.inference import get_inference_config

logger = logging.getLogger("fpt_d2.tools")

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


def check_format(model: nn.Module, export_format: str) -> None:
    """What can be known before an export.

    Raises:
        ValueError: packages that are not installed, or a model that the format cannot take.
    """
    square_sizes = {m.square_size for m in model.modules() if isinstance(m, GroundingTransformer)}
    if export_format != "compile" and square_sizes - {0}:
        raise ValueError(
            f"MODEL.FPT.GT_SQUARE_SIZE is {max(square_sizes)}, which ties a {export_format} graph to one image size: "
            "export a model that was trained with GT_SQUARE_SIZE 0"
        )
    if export_format == "onnx":
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"--format onnx needs more packages: pip install {' '.join(missing)}")


def traceable_model(model: nn.Module, image: Tensor) -> nn.Module:
    """The whole model, from a (3, H, W) image with values up to 255 to the fields of its instances.

    Raises:
        ValueError: Detectron2 cannot trace it.
    """
    if isinstance(model, PanopticFPN) or not isinstance(model, (GeneralizedRCNN, RetinaNet)):
        raise ValueError(f"a {type(model).__name__} cannot be traced as a whole; export its backbone: --format onnx")
    inputs = [{"image": image}]
    if isinstance(model, RetinaNet):
        return TracingAdapter(model, inputs)

    def inference(model: GeneralizedRCNN, inputs: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
        # Masks stay those of the boxes: pasting them into the image is left to the caller, as in Detectron2.
        return [{"instances": model.inference(inputs, do_postprocess=False)[0]}]

    return TracingAdapter(model, inputs, inference)


def export_torchscript(module: nn.Module, example: Tensor, folder: str, divisor: int) -> Runner:
    path = os.path.join(folder, "model.ts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the comparison shows what it warns of
        torch.jit.save(torch.jit.trace(module, (example,), check_trace=False), path)
    return torch.jit.load(path)


def export_torch_export(module: nn.Module, example: Tensor, folder: str, divisor: int) -> Runner:
    path = os.path.join(folder, "backbone.pt2")
    torch.export.save(torch.export.export(module, (example,), dynamic_shapes=_open_sizes(divisor)), path)
    return torch.export.load(path).module()


def export_onnx(module: nn.Module, example: Tensor, folder: str, divisor: int) -> Runner:
    import onnxruntime

    path = os.path.join(folder, "backbone.onnx")
    names = list(module.backbone.output_shape())
    shapes = _open_sizes(divisor)
    torch.onnx.export(
        module, (example,), path, dynamo=True, dynamic_shapes=shapes, input_names=["images"], output_names=names
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {"images": images.cpu().numpy()})]


def export_compile(
    module: nn.Module, example: Tensor, folder: str, divisor: int, backend: Union[str, Callable] = "inductor"
) -> Runner:
    return torch.compile(module, dynamic=True, backend=backend)


EXPORTERS = {
    "torchscript": export_torchscript,
    "torch_export": export_torch_export,
    "onnx": export_onnx,
    "compile": export_compile,
}


def export(model: nn.Module, export_format: str, folder: str) -> float:
    """Export a model and run both.

    Args:
        model: in eval mode.
        export_format: a key of :data:`EXPORTERS`.
        folder: where the file goes; it exists.

    Returns:
        The largest difference between an output of the model and of what was exported, as a share of that output's
        largest value, over images of :data:`IMAGE_SIZES`; infinity where shapes differ.

    Raises:
        ValueError: the format cannot take the model.
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
        raise ValueError(
            f"{export_format} does not take this model ({type(error).__name__}: {reason}): try another --format, or "
            "the trunk, the heads and the MODEL.FPT options of a config that exports"
        ) from error


def _open_sizes(divisor: int) -> dict[str, dict[int, Any]]:
    """Any height and width that the backbone takes: multiples of its largest stride, of which ImageList sees to it."""
    height, width = (torch.export.Dim(name, min=2) for name in ("height", "width"))
    return {"images": {2: divisor * height, 3: divisor * width}}


def _difference(a: Tensor, b: Tensor) -> float:
    a, b = a.double().cpu(), b.double().cpu()
    if a.shape != b.shape:
        return float("inf")
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) if b.numel() > 0 else 0.0


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--format", required=True, choices=EXPORTERS, help="see above")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the file goes")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys to change; comes last"
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    try:
        cfg = get_inference_config(args.config_file, args.opts, min_score=None)
        model = build_model(cfg).eval()
        check_format(model, args.format)
        FPTCheckpointer(model, whole=True, input_format=cfg.INPUT.FORMAT).load(cfg.MODEL.WEIGHTS)
        os.makedirs(args.output, exist_ok=True)
        difference = export(model, args.format, args.output)
    except (OSError, ValueError) as error:
        raise SystemExit(f"export_model.py: {error}") from error
    sizes = " and ".join(f"{height}x{width}" for height, width in IMAGE_SIZES)
    if difference > TOLERANCE:
        raise SystemExit(f"export_model.py: what was exported differs by {difference:.2g} at {sizes}: do not use it")
    logger.info(
        "Exported as %s to %s. Largest relative difference at %s: %.2g", args.format, args.output, sizes, difference
    )


if __name__ == "__main__":
    main()
