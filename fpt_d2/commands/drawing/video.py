"""Reading and writing videos. OpenCV reports neither a file that is cut short nor a full disk."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from ...errors import UserError
from .files import looks_like_a_file, make_folder
from .h264 import H264Writer, can_write

_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# Tried in this order. Which of them OpenCV can write depends on how it was built: x264, say, seldom.
_CODECS = ("mp4v", "avc1", "MJPG", "VP80")
# Of the frames that a file announces. Some containers only estimate how many they hold.
_MOST_MISSING = 0.01


def open_video(name: str | None) -> cv2.VideoCapture:
    """Open a video file, or the first webcam for None. Raises UserError if it cannot be read."""
    video = cv2.VideoCapture(0 if name is None else name)
    if not video.isOpened():
        raise UserError(f"The video {name or 'webcam'} cannot be read")
    return video


def frames_per_second(video: cv2.VideoCapture) -> float:
    rate = video.get(cv2.CAP_PROP_FPS)
    # A webcam often does not know its own.
    return rate if math.isfinite(rate) and rate > 0 else 30.0


def announced_frames(video: cv2.VideoCapture) -> int | None:
    """How many frames the file says it has; None if it does not, as a webcam."""
    total = video.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(total) if math.isfinite(total) and total > 0 else None


def is_cut_short(announced: int | None, read: int) -> bool:
    return announced is not None and announced - read > max(1, _MOST_MISSING * announced)


class VideoWriter:
    """Writes BGR frames to a video file: as H.264 where that is possible, else with OpenCV's first codec that opens.

    Args:
        output: a video file, or a folder in which the file is named after the input.
        name: the input's name.
        fps: frames per second.

    Raises:
        UserError: the file would replace the input, or its folder cannot be made.
    """

    def __init__(self, output: str, name: str, fps: float) -> None:
        is_file = looks_like_a_file(output, _SUFFIXES)
        self.path = Path(output) if is_file else Path(output) / f"{Path(name).stem}.mp4"
        if self.path.exists() and os.path.exists(name) and self.path.samefile(name):
            raise UserError(f"--output {output} would replace the input {name}: give another name")
        if self.path.is_dir():
            raise UserError(f"--output {output}: {self.path} is a folder: give another name")
        make_folder(self.path.parent)
        self.num_frames = 0
        self._fps = fps
        self._writer: H264Writer | cv2.VideoWriter | None = None

    def write(self, frame: np.ndarray) -> None:
        """Add a frame; the first one settles the size, which may differ from what the input's header says.

        Raises:
            UserError: no codec can write the file, or the disk is full.
        """
        if shutil.disk_usage(self.path.parent).free < frame.nbytes:
            raise UserError(f"The video {self.path} is not whole: its disk is full after {self.num_frames} frames")
        try:
            if self._writer is None:
                self._writer = self._open(frame.shape[1], frame.shape[0])
            self._writer.write(frame)
        except OSError as error:  # of H.264: OpenCV is silent
            why = f"{error.strerror or error} after {self.num_frames} frames"
            raise UserError(f"The video {self.path} is not whole: {why}") from error
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file, without which it cannot be played. :meth:`check` tells of a full disk."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.release()

    def check(self) -> None:
        """Raises UserError if the closed file does not hold all frames."""
        video, held = cv2.VideoCapture(str(self.path)), 0
        while video.grab():
            held += 1
        video.release()
        if held < self.num_frames:
            raise UserError(
                f"The video {self.path} is not whole: it holds {held} of {self.num_frames} frames; is its disk full?"
            )

    def _open(self, width: int, height: int) -> H264Writer | cv2.VideoWriter:
        if can_write(self.path):
            return H264Writer(self.path, self._fps, width, height)
        for codec in _CODECS:
            fourcc = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(str(self.path), fourcc, self._fps, (width, height))
            if writer.isOpened():
                return writer
        raise UserError(f"OpenCV can write {self.path} with none of {', '.join(_CODECS)}: try another suffix")
