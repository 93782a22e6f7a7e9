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
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger
from files import VideoWriter, check_display, collect_images, plan_outputs, save
from predictor import VisualizationDemo
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from fpt_d2.data.labels import UNREADABLE
from fpt_d2.engine.inference import get_inference_config
from fpt_d2.errors import UserError

logger = logging.getLogger("fpt_d2.demo")

_WINDOW = "predictions"
_ESCAPE = 27


def run(args: argparse.Namespace) -> int:
    """Draw what the command line asks for.

    Returns:
        The exit status: 0, or 1 when an input could not be read.

    Raises:
        UserError: something that the user can mend.
    """
    setup_logger(name="fpt_d2")
    setup_logger(name="fvcore")
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
    unreadable = []
    with logging_redirect_tqdm([logging.getLogger("fpt_d2")]):
        for index, path in enumerate(tqdm(images, unit="image")):
            try:
                image = read_image(str(path), format="BGR")
            except UNREADABLE as error:
                reason = "a folder without images" if path.is_dir() else f"which cannot be read: {error}"
                logger.error("Skipped %s, %s", path, reason)
                unreadable.append(path)
                continue
            picture = _draw(demo, image, path)
            if args.output:
                save(picture, outputs[index])
            elif _show(picture[:, :, ::-1], wait=0):
                break
    return _report(len(images), unreadable, args.output)


def _draw(demo: VisualizationDemo, image: np.ndarray, path: Path) -> np.ndarray:
    start = time.perf_counter()
    outputs, drawn = demo.run_on_image(image)
    found = f"{len(outputs['instances'])} instances" if "instances" in outputs else "done"
    logger.info("%s: %s in %.2f s", path, found, time.perf_counter() - start)
    return drawn.get_image()


def _report(num_images: int, unreadable: Sequence[Path], output: str | None) -> int:
    if output:
        logger.info("Wrote %d of %d pictures to %s", num_images - len(unreadable), num_images, output)
    if unreadable:
        logger.error("%d skipped: %s", len(unreadable), ", ".join(map(str, unreadable)))
    return 1 if unreadable else 0


def _draw_video(args: argparse.Namespace) -> int:
    name = "webcam" if args.webcam else args.video_input
    video = cv2.VideoCapture(0 if args.webcam else args.video_input)
    if not video.isOpened():
        raise UserError(f"The video {name} cannot be read")
    writer = VideoWriter(args.output, name, fps=_frames_per_second(video)) if args.output else None
    if writer is None:
        check_display()
    num_frames = _draw_frames(_load(args), video, writer)
    if not num_frames:
        raise UserError(f"The video {name} does not have a frame that can be read")
    if writer:
        logger.info("Wrote %d frames to %s", num_frames, writer.path)
    return 0


def _frames_per_second(video: cv2.VideoCapture) -> float:
    rate = video.get(cv2.CAP_PROP_FPS)
    # A webcam often does not know its own.
    return rate if math.isfinite(rate) and rate > 0 else 30.0


def _draw_frames(demo: VisualizationDemo, video: cv2.VideoCapture, writer: VideoWriter | None) -> int:
    """Write or show every frame, until the video, the user or Escape ends it; how many were drawn."""
    total = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    drawn = 0
    try:
        for frame in tqdm(demo.run_on_video(video), total=total if total > 0 else None, unit="frame"):
            drawn += 1
            if writer:
                writer.write(frame)
            elif _show(frame, wait=1):
                break
    except KeyboardInterrupt:
        logger.info("Stopped by Ctrl-C")
    finally:
        video.release()
        if writer:
            # A video that is not closed cannot be played.
            writer.close()
    return drawn


def _show(picture: np.ndarray, *, wait: int) -> bool:
    """Show a BGR picture for ``wait`` ms, until a key is pressed when 0; True when that key is Escape."""
    cv2.namedWindow(_WINDOW, cv2.WINDOW_NORMAL)
    cv2.imshow(_WINDOW, picture)
    return cv2.waitKey(wait) == _ESCAPE
