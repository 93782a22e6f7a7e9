"""In a fresh process: no path holds a Q x K matrix, forward and backward; the import needs torch alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("fresh_process.py")
SIDE = 112
MATRIX = SIDE**2 * (SIDE**2 // 4) * 4 / 2**20  # MiB

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the high-water mark from Linux's /proc"
)


@pytest.fixture(scope="module")
def report() -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[2])}
    result = subprocess.run([sys.executable, str(SCRIPT), str(SIDE)], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_no_path_holds_a_matrix(report: Any) -> None:
    *peaks, control = report["peaks"].values()
    assert control > 1.5 * MATRIX, "the measurement does not see a matrix"
    assert len(peaks) == 8 and max(peaks) < MATRIX / 2, report["peaks"]


def test_the_import_loads_torch_alone(report: Any) -> None:
    assert set(report["loaded"]) <= {"fpt_d2", "torch", "triton"}  # torch itself loads triton where there is one
