"""``--check`` says what would run, after a few iterations, and writes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fpt_d2.engine import Trainer
from tests.loggers import forget_loggers


def rows(text: str) -> dict[str, str]:
    """The lines of a dry run by their first words."""
    lines = text[text.index("All checks passed") :].splitlines()[1:]
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines)


def test_a_training_is_described_and_nothing_is_written(command_line, train_net, out: Path, capsys) -> None:
    words = command_line("--check", "SOLVER.MAX_ITER", 12, "TEST.EVAL_PERIOD", 3)
    assert train_net(words) == 0
    said = rows(capsys.readouterr().out)
    assert said["train"].startswith("tiny_train: 8 images, ")
    assert said["test"].startswith("tiny_val: 4 images, ") and "6 classes (circle, square" in said["test"]
    assert said["schedule"] == "12 iterations of 2 images: 3 epochs"
    assert len(said["losses"].split("(")[0].split(",")) == 4
    assert re.fullmatch(r"[\d.]+ s an iteration, about \d+ (seconds|minutes) in all, without evaluations", said["time"])
    assert re.fullmatch(r"[\d.]+ GiB in each process", said["memory"])
    assert said["evaluation"] == "every 3 iterations"
    assert said["output"] == str(out) and not out.exists()


def test_the_shares_of_several_processes(command_line, train_net, capsys) -> None:
    words = command_line("--check", "--num-gpus=2", "SOLVER.IMS_PER_BATCH", 4, "SOLVER.REFERENCE_WORLD_SIZE", 1)
    assert train_net(words) == 0
    assert rows(capsys.readouterr().out)["schedule"] == "2 iterations of 8 images, 4 in each of 2 processes: 2 epochs"


def test_an_evaluation_and_a_resumed_training(command_line, train_net, out: Path, capsys, monkeypatch) -> None:
    assert train_net(command_line("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")) == 0
    forget_loggers()  # which would write to the log of that training
    before = sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*"))
    monkeypatch.setattr(Trainer, "test", lambda *_, **__: pytest.fail("evaluated"))
    capsys.readouterr()
    assert train_net(command_line("--check", "--eval-only", "MODEL.WEIGHTS", out / "model_final.pth")) == 0
    said = rows(capsys.readouterr().out)
    assert said["weights"] == str(out / "model_final.pth") and "train" not in said
    assert re.fullmatch(r"[\d.]+ s an image, about \d+ seconds in one process", said["time"])
    assert train_net(command_line("--check", "--resume")) == 0
    assert rows(capsys.readouterr().out)["goes on from"] == str(out / "model_final.pth")
    assert train_net(command_line("--check", "--resume", "SOLVER.MAX_ITER", 1)) == 0
    assert rows(capsys.readouterr().out)["goes on from"].endswith("with nothing left to do: it is of iteration 0")
    assert sorted((path, path.stat().st_mtime_ns) for path in out.rglob("*")) == before


def test_a_resumed_training_takes_the_time_that_is_left(command_line, train_net, capsys) -> None:
    assert train_net(command_line("SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()")) == 0
    forget_loggers()
    for total, left in [(12, 11), (1, 0)]:
        capsys.readouterr()
        assert train_net(command_line("--check", "--resume", "SOLVER.MAX_ITER", total, "DATASETS.TEST", "()")) == 0
        assert f"for the {left} iterations that are left" in rows(capsys.readouterr().out)["time"]


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_one_reports(rank: int, command_line, train_net, capsys, monkeypatch) -> None:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}
    for name, value in places.items():
        monkeypatch.setenv(name, str(value))
    assert train_net(command_line("--check")) == 0
    said = capsys.readouterr().out
    assert (rank == 0) == ("All checks passed" in said) == ("1 in each of 2 processes" in said)


def test_a_training_that_diverges_at_once(command_line, train_net, capsys) -> None:
    assert train_net(command_line("--check", "SOLVER.BASE_LR", 1e30)) == 2
    assert "The training diverges at once" in capsys.readouterr().err


def test_what_is_wrong_is_one_sentence_here_too(command_line, train_net, out: Path, capsys) -> None:
    assert train_net(command_line("--check", "SOLVER.IMS_PER_BATCH", 3, "--num-gpus=2")) == 2
    assert "SOLVER.IMS_PER_BATCH 3" in capsys.readouterr().err
    assert not out.exists()
