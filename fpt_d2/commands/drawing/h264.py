"""H.264, the video that browsers play, written by PyAV."""

from __future__ import annotations

import importlib.util
import logging
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

logger = logging.getLogger("fpt_d2.demo")

_SUFFIXES = (".m4v", ".mkv", ".mov", ".mp4")
# x264's own default is 23; text at 20 is sharp.
_QUALITY = "20"


def can_write(path: Path) -> bool:
    """Whether the file can hold H.264, and PyAV with x264 is installed; says so where only that is missing."""
    if path.suffix.lower() not in _SUFFIXES:
        return False
    if importlib.util.find_spec("av") is not None:
        import av

        with suppress(ValueError):  # a PyAV built without x264
            av.Codec("libx264", "w")
            return True
    logger.warning("%s gets a codec that browsers do not play: pip install av, for H.264", path)
    return False


class H264Writer:
    """Writes frames as OpenCV's ``VideoWriter`` does, in the colors and with the index that players expect.

    Args:
        path: a .mp4, .m4v, .mov or .mkv file.
        fps: frames per second.
        width, height: of the frames; an odd one grows by a pixel, because colors are stored for 2×2 pixels.

    Raises:
        OSError: the file cannot be written; so does every method.
    """

    def __init__(self, path: Path, fps: float, width: int, height: int) -> None:
        import av

        # The index in front, so that a browser starts before it has the whole file.
        options = {} if path.suffix.lower() == ".mkv" else {"movflags": "+faststart"}
        self._av, self._file = av, av.open(str(path), "w", options=options)
        self._stream = self._file.add_stream("libx264", Fraction(fps).limit_denominator(1001), {"crf": _QUALITY})
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"

    def write(self, frame: np.ndarray) -> None:
        """Add a frame (H, W, 3), BGR, uint8."""
        down, right = self._stream.height - frame.shape[0], self._stream.width - frame.shape[1]
        even = np.pad(frame, ((0, down), (0, right), (0, 0)), mode="edge")
        self._file.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(even, format="bgr24")))

    def release(self) -> None:
        """Write what the encoder still holds, and close the file."""
        try:
            self._file.mux(self._stream.encode())
        finally:
            self._file.close()
