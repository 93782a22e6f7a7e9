"""kill -9 at random moments, 20 times in all: the training that goes on is the one that nobody has killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.abuse.cases import Place
from tests.engine.conftest import CONFIG

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["SOLVER.MAX_ITER", 40, "TEST.EVAL_PERIOD", 5, "TEST.LOSS", True]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(place: Place, log: Path, *words: object) -> subprocess.Popen[bytes]:
    flags = [str(word) for word in words if str(word).startswith("--")]
    pairs = [str(word) for word in (*WORDS, *words) if not str(word).startswith("--")]
    command = [sys.executable, str(ROOT / "tests" / "abuse" / "recorded_training.py"), "--config-file"]
    command += [str(place.config), "--resume", *flags, "OUTPUT_DIR", str(place.out), *pairs]
    with open(log, "ab") as file:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file, start_new_session=True)


def read(place: Place, rank: int = 0) -> list[dict[str, Any]]:
    path = place.out / f"steps.{rank}.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill_after(process: subprocess.Popen[bytes], place: Place, steps: int, seconds: float) -> bool:
    """Kill all of a training some time after that many more steps of it; False if it ends before."""
    target = len(read(place)) + steps
    while process.poll() is None and len(read(place)) < target:
        time.sleep(0.02)
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    last = (place.out / "last_checkpoint").read_text() if (place.out / "last_checkpoint").exists() else ""
    for path in place.out.glob("model_*[0-9].pth"):
        if path.name < last:  # 90 MB each
            path.unlink()
    return True


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("kills", "words"),
    [
        # With a checkpoint after each step many of the kills come while one is written.
        (7, ["DATALOADER.NUM_WORKERS", 0, "SOLVER.CHECKPOINT_PERIOD", 1]),
        (7, ["DATALOADER.NUM_WORKERS", 2, "SOLVER.CHECKPOINT_PERIOD", 2]),
        (6, ["--num-gpus=2", "--dist-url=auto", "MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.CHECKPOINT_PERIOD", 1]),
    ],
    ids=["no worker", "two workers", "two processes"],
)
def test_a_killed_training_is_the_one_that_nobody_has_killed(
    kills: int, words: list[Any], tmp_path: Path, shapes
) -> None:
    place, log, moments = Place(tmp_path / "data", shapes, CONFIG), tmp_path / "log.txt", random.Random(kills)
    for kill in range(kills):
        process = start(place, log, *words)
        assert kill_after(process, place, moments.randint(1, 4), moments.random()), f"{kill}: {log.read_text()[-3000:]}"
    assert start(place, log, *words).wait() == 0, log.read_text()[-3000:]

    killed, folder = {rank: read(place, rank) for rank in (0, 1)}, place.out
    place.out = tmp_path / "whole"
    end = start(place, log, *words, "SOLVER.CHECKPOINT_PERIOD", 1000).wait()
    assert end == 0, log.read_text()[-3000:]
    for rank, lines in killed.items():
        whole = {line["iteration"]: line for line in read(place, rank)}
        assert len(whole) == (40 if rank == 0 or "--num-gpus=2" in words else 0)
        assert {line["iteration"] for line in lines} == set(whole)
        assert all(line["images"] == whole[line["iteration"]]["images"] for line in lines)
        for line in lines:
            assert line["losses"] == pytest.approx(whole[line["iteration"]]["losses"], abs=1e-6), line["iteration"]
    assert metrics(folder) == [pytest.approx(line, abs=1e-6, nan_ok=True) for line in metrics(place.out)]


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.json, without times and memory."""
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    own = ("[metric]max_mem_gb", "eta_seconds")
    return [{name: x for name, x in line.items() if "time" not in name and name not in own} for line in lines]
