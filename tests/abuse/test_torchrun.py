"""torchrun starts one training, and goes on by itself with the same losses where one of its processes is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.abuse.cases import Place
from tests.abuse.test_kill import ENVIRONMENT, ROOT, read
from tests.engine.conftest import CONFIG

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]
WORDS = ["SOLVER.MAX_ITER", 12, "SOLVER.CHECKPOINT_PERIOD", 3, "DATASETS.TEST", "()", "MODEL.RESNETS.NORM", "FrozenBN"]


def start(place: Place, out: Path, log: Path, *starter: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    script = [str(ROOT / "tests" / "abuse" / "recorded_training.py"), "--config-file", str(place.config), *flags]
    command = [sys.executable, *starter, *script, "OUTPUT_DIR", str(out), *map(str, WORDS)]
    with open(log, "ab") as file:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)


@pytest.mark.abuse
def test_a_killed_process_of_torchrun_changes_nothing(tmp_path: Path, shapes: Path) -> None:
    place, log = Place(tmp_path / "data", shapes, CONFIG), tmp_path / "log.txt"
    whole = tmp_path / "whole"
    assert start(place, whole, log, flags=("--num-gpus=2", "--dist-url=auto")).wait() == 0, log.read_text()[-3000:]
    training = start(place, place.out, log, *TORCHRUN)
    while training.poll() is None and len(read(place)) < 5:
        time.sleep(0.1)
    workers = subprocess.run(["pgrep", "-P", str(training.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    assert training.wait() == 0, log.read_text()[-3000:]
    for rank in (0, 1):
        steps, place.out = read(place, rank), whole
        expected, place.out = {line["iteration"]: line for line in read(place, rank)}, tmp_path / "data" / "out"
        assert {line["iteration"] for line in steps} == set(range(12)) and len(steps) > 12
        for line in steps:
            assert line["images"] == expected[line["iteration"]]["images"]
            # Of both processes together, which the first has.
            assert rank or line["losses"] == pytest.approx(expected[line["iteration"]]["losses"], abs=1e-6)


@pytest.mark.abuse
def test_what_is_refused_is_refused_again_when_torchrun_starts_it_again(tmp_path: Path, shapes: Path) -> None:
    place, log = Place(tmp_path / "data", shapes, CONFIG), tmp_path / "log.txt"
    place.out.mkdir()
    (place.out / "model_0000002.pth").write_text("of another training")
    assert start(place, place.out, log, *TORCHRUN[:-1], "--max-restarts=1").wait() != 0
    assert log.read_text().count("holds a training already") == 2
    assert [path.name for path in place.out.glob("*")] == ["model_0000002.pth"]
