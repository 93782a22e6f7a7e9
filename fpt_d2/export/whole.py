"""Export of a whole model, and the comparison of the file with the predictor."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..errors import UserError
from .comparing import Difference, compare, predict
from .deployable import Deployable, deployable
from .formats import SUFFIXES, WRITERS, Runner
from .metadata import ExportInfo

logger = logging.getLogger(__name__)

# Heights and widths of images that are compared where none are given.
SIZES = ((240, 320), (333, 250), (200, 411))


def export_whole(
    cfg: CfgNode,
    predictor: DefaultPredictor,
    export_format: str,
    folder: Path,
    *,
    images: Sequence[np.ndarray],
    classes: Sequence[str],
) -> Difference:
    """Write ``model.ts``, ``model.pt2`` or ``model.onnx``, and run it beside the predictor.

    Args:
        cfg: one that :func:`.support.check_whole` lets pass.
        predictor: of the trained model.
        export_format: a key of :data:`.formats.WRITERS`.
        folder: where the file goes; it exists.
        images: (H, W, 3) uint8 in BGR, which the file is compared on; the first is recorded with.
        classes: names by number.

    Returns:
        The largest difference. Beyond the bounds of :mod:`.comparing` the file is not kept.

    Raises:
        UserError: the format cannot take the model.
    """
    path = folder / f"model{SUFFIXES[export_format]}"
    unproven = path.with_name(f"unproven-{path.name}")
    module = deployable(cfg, predictor.model)
    info = ExportInfo.of(cfg, module.outputs, list(classes))
    try:
        with torch.no_grad():
            run = _write(export_format, module, _as_input(images[0], cfg), unproven, info)
            difference = _compare_all(cfg, predictor, run, images)
        if difference.is_small():
            unproven.replace(path)
    finally:
        unproven.unlink(missing_ok=True)
    return difference


def _write(export_format: str, module: Deployable, example: torch.Tensor, path: Path, info: ExportInfo) -> Runner:
    try:
        return WRITERS[export_format](module, example, path, info)
    except OSError:
        raise
    except Exception as error:  # of every exporter and runtime its own kinds
        raise refusal(export_format, error, "another --format, or --part backbone") from error


def refusal(export_format: str, error: Exception, remedy: str) -> UserError:
    """What an exporter says, in one line."""
    reason = next(iter(str(error).strip().splitlines()), "")
    return UserError(f"{export_format} does not take this model ({type(error).__name__}: {reason}): try {remedy}")


def _as_input(image: np.ndarray, cfg: CfgNode) -> torch.Tensor:
    """As the file takes it."""
    image = image[:, :, ::-1] if cfg.INPUT.FORMAT == "RGB" else image
    return torch.from_numpy(np.array(image, order="C"))  # a copy: a JPEG's array cannot be written to


def _compare_all(cfg: CfgNode, predictor: DefaultPredictor, run: Runner, images: Sequence[np.ndarray]) -> Difference:
    is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
    threshold = (cfg.MODEL.RETINANET if is_retinanet else cfg.MODEL.ROI_HEADS).SCORE_THRESH_TEST
    found = []
    for image in images:
        expected = predict(predictor, image)
        try:
            outputs = run(_as_input(image, cfg))
        except Exception as error:
            size = f"{image.shape[0]}x{image.shape[1]}"
            raise UserError(f"The file does not run at {size} ({type(error).__name__}: {error})") from error
        found.append(compare(outputs, expected, limit=cfg.TEST.DETECTIONS_PER_IMAGE, threshold=threshold))
        logger.info("%dx%d: %s (%d objects)", *image.shape[:2], found[-1], found[-1].objects)
    return Difference.largest(found)


def of_several_sizes(images: Sequence[np.ndarray], number: int) -> list[np.ndarray]:
    """``images``, made-up ones if there are none, and parts of the first until there are ``number`` sizes."""
    images = list(images) or [_made_up(*size) for size in SIZES]
    height, width = images[0].shape[:2]
    for part in range(3, 3 + number):
        if len({image.shape for image in images}) >= number:
            break
        images.append(images[0][: max(height * part // (part + 1), 1), : max(width * (part - 1) // part, 1)].copy())
    return images


def _made_up(height: int, width: int) -> np.ndarray:
    """Patches of one colour each, (height, width, 3) uint8."""
    generator = np.random.default_rng(height)
    patches: np.ndarray = generator.integers(0, 256, (height // 40 + 1, width // 40 + 1, 3), dtype=np.uint8)
    image: np.ndarray = patches.repeat(40, 0).repeat(40, 1)[:height, :width].copy()
    return image
