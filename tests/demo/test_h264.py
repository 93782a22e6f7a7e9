"""The codec of the videos, which browsers play, read back by PyAV."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from fpt_d2.commands.drawing import h264
from fpt_d2.commands.drawing.video import VideoWriter

FRAMES = [np.full((47, 63, 3), level, np.uint8) for level in (0, 60, 120, 180, 240)]


def _write(path: Path) -> None:
    writer = VideoWriter(str(path), "clip.mp4", 29.97)
    for frame in FRAMES:
        writer.write(frame)
    writer.close()
    writer.check()


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_videos_are_what_browsers_play(suffix: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    _write(path := tmp_path / f"drawn.{suffix}")
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert (stream.width, stream.height) == (64, 48)  # odd sizes grow
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
        levels = [frame.to_ndarray(format="rgb24").mean() for frame in file.decode(stream)]
    assert levels == pytest.approx([frame.mean() for frame in FRAMES], abs=3)
    if suffix != "mkv":  # the index stands before the frames
        content = path.read_bytes()
        assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_without_pyav_opencv_writes_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _write(tmp_path / "drawn.mp4")
    assert [r.message for r in caplog.records if r.name == "fpt_d2.demo"] == [
        f"{tmp_path / 'drawn.mp4'} gets a codec that browsers do not play: pip install av, for H.264"
    ]
    assert not h264.can_write(tmp_path / "drawn.avi") and len(caplog.records) == 1  # which never holds H.264
