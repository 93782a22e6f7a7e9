"""Python in a process of its own, for what depends on what is importable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def repo() -> Path:
    return ROOT


@pytest.fixture
def run_python(tmp_path):
    """Run ``python *args`` in an empty folder and return its stdout; with what it said where it fails."""

    def run(*args: str, python: str = sys.executable, **env: str) -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
        done = subprocess.run([python, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run
