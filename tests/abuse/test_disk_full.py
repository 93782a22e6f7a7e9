"""A disk that is full at each kind of write: one sentence with the file, and what was saved before is safe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.abuse.cases import Place
from tests.engine.conftest import CONFIG

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shapes: Path) -> Place:
    """A training of which two iterations are saved."""
    place = Place(tmp_path_factory.mktemp("trained"), shapes, CONFIG)
    run(place, "SOLVER.MAX_ITER", "2")
    (place.out / "model_final.pth").rename(place.out / "model_0000001.pth")
    (place.out / "last_checkpoint").write_text("model_0000001.pth")
    return place


def run(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(place.config), "--resume", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.abuse
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("config.yaml", []),
        ("metrics.json", []),
        ("model_0000003.unfinished.pth", []),
        ("last_checkpoint.unfinished", []),
        ("inference/coco_instances_results.json", []),
        ("evaluation.json", ["--eval-only"]),
    ],
)
def test_one_file_that_does_not_fit(name: str, flags: list[str], trained: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained.out, out)
    (out / name).unlink(missing_ok=True)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to("/dev/full")
    end = run(trained, *flags, *WORDS, "OUTPUT_DIR", str(out))
    check(end, out)
    if name not in ("config.yaml", "inference/coco_instances_results.json"):  # Detectron2 writes these
        assert name.replace(".unfinished", "").split("last_")[0] in end.stderr.splitlines()[-1]


def check(end: subprocess.CompletedProcess[str], out: Path) -> None:
    assert end.returncode == 2, end.stderr[-3000:]
    sentence = end.stderr.strip().splitlines()[-1]
    assert "cannot be written: No space left on device" in sentence and str(out) in sentence
    assert "Traceback" not in end.stderr + end.stdout
    last = (out / "last_checkpoint").read_text()
    assert torch.load(out / last, weights_only=True)["iteration"] >= 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(megabytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a disk")
        return disk

    yield mount
    subprocess.run(["umount", str(disk)], capture_output=True)


@pytest.mark.abuse
def test_a_disk_that_has_room_for_one_checkpoint(trained: Place, small_disk: Callable[[int], Path]) -> None:
    out = small_disk(150) / "out"
    end = run(trained, *WORDS, "OUTPUT_DIR", str(out))
    check(end, out)
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not list(out.glob("*unfinished*"))
