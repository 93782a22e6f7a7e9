"""What the demo does once its command line is read."""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ...data.images import check_scaling, read_image
from ...engine.inference import get_inference_config
from ...errors import DatasetError, UserError
from ..common import log_to_terminal
from .files import check_display, collect_images, plan_outputs, save
from .predictor import VisualizationDemo
from .video import VideoWriter, announced_frames, frames_per_second, is_cut_short, open_video

logger = logging.getLogger("fpt_d2.demo")

_WINDOW = "predictions"
_ESCAPE = 27
# Larger images are scaled down: a pixel takes some 130 bytes while it is drawn, and one for each object.
_MAX_DRAWN = 2**24
_MAX_SIDE = 16_000  # WebP holds 16,383 pixels in a row, matplotlib draws and JPEG holds some 65,000
_OUT_OF_MEMORY = (MemoryError, torch.cuda.OutOfMemoryError)


def run(args: argparse.Namespace) -> int:
    """Draw what the command line asks for.

    Returns:
        The exit status: 0, or 1 when an input could not be read.

    Raises:
        UserError: something that the user can mend.
    """
    log_to_terminal()
    return _draw_images(args) if args.input else _draw_video(args)


def _load(args: argparse.Namespace) -> VisualizationDemo:
    return VisualizationDemo(get_inference_config(args.config_file, args.opts, min_score=args.confidence_threshold))


def _draw_images(args: argparse.Namespace) -> int:
    images = collect_images(args.input)
    if args.output:
        outputs = plan_outputs(images, args.output)
    else:
        check_display()
    demo = _load(args)
    skipped = []
    with logging_redirect_tqdm([logging.getLogger("fpt_d2")]):
        for index, path in enumerate(tqdm(images, unit="image", disable=None)):
            try:
                picture = _draw(demo, _read(path, demo), path)
            except DatasetError as error:
                logger.error("Skipped: %s", error)
                skipped.append(path)
                continue
            except _OUT_OF_MEMORY as error:
                logger.error("Skipped %s, for which the memory is too small: %s", path, error)
                skipped.append(path)
                continue
            if args.output:
                save(picture, outputs[index])
            elif _show(picture[:, :, ::-1], wait=0):
                break
    return _report(len(images), skipped, args.output)


def _read(path: Path, demo: VisualizationDemo) -> np.ndarray:
    """An image, BGR, of a size that can be drawn. Raises DatasetError if it cannot be read, or not be scaled."""
    if path.is_dir():
        raise DatasetError(f"{path} is a folder without images")
    image = read_image(path, "BGR")
    check_scaling(path, image, demo.augmentations)
    height, width = image.shape[:2]
    scale = min(math.sqrt(_MAX_DRAWN / (height * width)), _MAX_SIDE / max(height, width))
    if scale >= 1:
        return image
    size = max(1, int(scale * width)), max(1, int(scale * height))
    logger.warning("%s of %d x %d pixels is scaled to %d x %d, and predicted and drawn so", path, width, height, *size)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _draw(demo: VisualizationDemo, image: np.ndarray, path: Path) -> np.ndarray:
    start = time.perf_counter()
    outputs, picture = demo.run_on_image(image)
    found = f"{len(outputs['instances'])} instances" if "instances" in outputs else "done"
    logger.info("%s: %s in %.2f s", path, found, time.perf_counter() - start)
    return picture


def _report(num_images: int, skipped: Sequence[Path], output: str | None) -> int:
    if output:
        logger.info("Wrote %d of %d pictures to %s", num_images - len(skipped), num_images, output)
    if skipped:
        logger.error("%d skipped: %s", len(skipped), ", ".join(map(str, skipped)))
    return 1 if skipped else 0


def _draw_video(args: argparse.Namespace) -> int:
    name = "webcam" if args.webcam else args.video_input
    video = open_video(args.video_input)
    announced = announced_frames(video)
    writer = VideoWriter(args.output, name, fps=frames_per_second(video)) if args.output else None
    if writer is None:
        check_display()
    num_frames, stopped = _draw_frames(_load(args), video, writer)
    if not num_frames:
        raise UserError(f"The video {name} does not have a frame that can be read")
    if writer:
        writer.check()
        logger.info("Wrote %d frames to %s", num_frames, writer.path)
    if stopped or not is_cut_short(announced, num_frames):
        return 0
    logger.warning("%s announces %d frames, of which %d can be read: it is cut short", name, announced, num_frames)
    return 1


def _draw_frames(demo: VisualizationDemo, video: cv2.VideoCapture, writer: VideoWriter | None) -> tuple[int, bool]:
    """Write or show every frame, until the video, the user or Escape ends it.

    Returns:
        How many were drawn, and whether the user ended it.
    """
    drawn, stopped = 0, False
    try:
        for frame in tqdm(demo.run_on_video(video), total=announced_frames(video), unit="frame", disable=None):
            drawn += 1
            if writer:
                writer.write(frame)
            elif _show(frame, wait=1):
                stopped = True
                break
    except KeyboardInterrupt:
        logger.info("Stopped by Ctrl-C")
        stopped = True
    finally:
        video.release()
        if writer:
            writer.close()
    return drawn, stopped


def _show(picture: np.ndarray, *, wait: int) -> bool:
    """Show a BGR picture for ``wait`` ms, until a key is pressed when 0; True when that key is Escape."""
    cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    cv2.imshow(_WINDOW, picture)
    return cv2.waitKey(wait) == _ESCAPE
