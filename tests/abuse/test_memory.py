"""What a long run of the demo keeps of each image: nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.demo.conftest import config_file, demo

__all__ = ["config_file", "demo"]

_SIZES = ((120, 160), (160, 120), (90, 200), (200, 200))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.abuse
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc")
def test_a_thousand_images_take_no_more_memory_than_a_hundred(
    demo: Any, config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fpt_d2.commands.drawing import draw

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(1000):
        path, (height, width) = tmp_path / "in" / f"{number:04d}.png", _SIZES[number % len(_SIZES)]
        if number < 20:
            Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
        else:
            path.symlink_to(f"{number % 20:04d}.png")
    memory: list[float] = []
    monkeypatch.setattr(draw, "save", lambda picture, path: memory.append(_resident_mib()))
    argv = ["--config-file", config_file, "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert demo.main([*argv, "--confidence-threshold", "0.0"]) == 0
    print(f"resident: {memory[99]:.0f} MiB at image 100, {memory[-1]:.0f} MiB at image 1000")
    assert len(memory) == 1000 and np.mean(memory[-50:]) < np.mean(memory[75:125]) + 20
