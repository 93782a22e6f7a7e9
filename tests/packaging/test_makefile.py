"""The set-up fails with a sentence where the interpreter will not do."""

from __future__ import annotations

import shutil
import subprocess

import pytest


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("python", ["./too-old", "./not-there"])
def test_unsuitable_python(python, repo, tmp_path):
    shutil.copy(repo / "Makefile", tmp_path)
    shutil.copytree(repo / "requirements", tmp_path / "requirements")
    shutil.copy(repo / "setup.py", tmp_path)
    too_old = tmp_path / "too-old"
    too_old.write_text("#!/bin/sh\nexit 1\n")  # its answer to whether it is new enough
    too_old.chmod(0o755)
    done = subprocess.run(["make", "test", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"error: '{python}' is not Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()
