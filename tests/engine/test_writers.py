"""What a training shows in the terminal, and what it writes to its log alone."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from detectron2.evaluation import print_csv_format

from fpt_d2.engine import setup
from fpt_d2.engine.writers import FirstProgress, start_logging
from fpt_d2.quiet import silence

ROOT = Path(__file__).resolve().parents[2]
FOR_THE_FILE = ("Environment info", "Running with full config", "Contents of args.config_file")


def test_a_training_shows_what_a_reader_follows(command_line, out: Path) -> None:
    """And nothing of what torch, setuptools and Detectron2 warn their own authors of."""
    words = command_line("SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()", "DATASETS.TEST", "()")
    run = subprocess.run([sys.executable, "train_net.py", *words], capture_output=True, text=True, cwd=ROOT, check=True)
    log = (out / "log.txt").read_text(encoding="utf-8")
    for beginning in (*FOR_THE_FILE, "GeneralizedRCNN("):
        assert beginning in log and beginning not in run.stdout
    assert "Iteration 1 of 2: total_loss" in run.stdout
    assert "\x1b" not in run.stdout + log
    assert len(run.stdout.splitlines()) < 40
    assert run.stderr == ""


def test_a_key_shows_all(parse, capsys) -> None:
    setup(parse("LOG.VERBOSE", True))
    shown = capsys.readouterr().out
    assert all(beginning in shown for beginning in FOR_THE_FILE)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colors_go_to_a_terminal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    start_logging(str(tmp_path))
    logging.getLogger("fpt_d2").info("\x1b[31mred\x1b[0m")
    assert "\x1b[31mred" in terminal.getvalue()
    assert (tmp_path / "log.txt").read_text(encoding="utf-8").endswith("fpt_d2 INFO: red\n")


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    start_logging(str(tmp_path))
    return terminal


def test_results_are_always_shown(shown: io.StringIO) -> None:
    """PASCAL VOC's evaluator, and many of a user's own, print no table of theirs."""
    print_csv_format({"bbox": {"AP": 12.3456}})
    assert "copypaste: AP" in shown.getvalue() and "12.3456" in shown.getvalue()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fpt_d2.mine", "Model:\nmine"),
        ("detectron2.mine", "Serialization of 3 images failed"),
        ("detectron2.mine", "Loading from  ... failed"),
    ],
)
def test_only_what_detectron2_tells_itself_is_kept(name: str, message: str, shown: io.StringIO) -> None:
    logging.getLogger("detectron2.engine").info("Model:\nlong")
    logging.getLogger(name).info(message)
    logging.getLogger("detectron2.engine").warning("Model:\nwrong")
    assert message in shown.getvalue() and "long" not in shown.getvalue() and "wrong" in shown.getvalue()


@pytest.mark.parametrize("name", ["detectron2.mine", "torch.fx._symbolic_trace"])
def test_a_message_that_does_not_fit_its_arguments_passes_the_filters(name: str, shown: io.StringIO) -> None:
    """A handler tells of it, and the training goes on."""
    silence()
    record = logging.LogRecord(name, logging.INFO, "file.py", 1, "%s and %s", (1,), None)
    for handler in logging.getLogger("detectron2").handlers:
        assert handler.filter(record)
    assert logging.getLogger(name).filter(record)


def test_all_is_shown_after_a_quiet_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    start_logging(str(tmp_path))
    start_logging(str(tmp_path), verbose=True)
    logging.getLogger("detectron2").info("Environment info: all")
    assert "Environment info: all" in terminal.getvalue()


def test_a_process_without_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    start_logging(str(tmp_path / "new"))
    logging.getLogger("fpt_d2").info("written")
    assert "written" in (tmp_path / "new" / "log.txt").read_text(encoding="utf-8")


def test_a_terminal_that_was_closed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", terminal := _Terminal())
    start_logging(str(tmp_path))
    terminal.close()
    start_logging(str(tmp_path))


def test_long_iterations_are_told_of_once_a_minute(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    clock, hook = SimpleNamespace(now=0.0), FirstProgress(period=20)
    monkeypatch.setattr("fpt_d2.engine.writers.time.perf_counter", lambda: clock.now)
    storage = SimpleNamespace(latest=lambda: {"total_loss": (1.5, 0)})
    hook.trainer = trainer = SimpleNamespace(iter=0, start_iter=0, max_iter=45, storage=storage)
    caplog.set_level(logging.INFO, "fpt_d2.engine.writers")
    hook.before_train()
    for trainer.iter in range(45):
        clock.now += 25.0
        hook.after_step()
    # Detectron2 tells of iterations 20, 40 and the last.
    told = [record.args[0] for record in caplog.records]
    assert told == [1, 4, 7, 10, 13, 16, 19, 23, 26, 29, 32, 35, 38, 43]
    assert caplog.messages[0] == "Iteration 1 of 45: total_loss 1.5, 25.0 s"
