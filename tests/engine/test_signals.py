"""Signals that ask to end: one answer to each request, wherever a command is, and none lost."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fpt_d2 import signals
from fpt_d2.cli import exit_on_user_errors
from fpt_d2.data import resumable_loader
from fpt_d2.errors import STOP_SIGNALS, Terminated
from fpt_d2.signals import Requests, raised


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Python itself reports beside the program, such as a signal whose handler was changed meanwhile."""
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    return reports


def send_together(*signums: int) -> None:
    """Let them arrive at one moment."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signums)
    try:
        for signum in signums:
            os.kill(os.getpid(), signum)
    finally:  # another thread, as the tests' distribution has, takes them at once
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signums)


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_command_ends_in_one_sentence(signum: int, capsys, unraisable: list[Any]) -> None:
    before = signal.getsignal(signum)
    with pytest.raises(SystemExit) as end, exit_on_user_errors():
        send_together(signum, signal.SIGTERM)
    assert end.value.code in (128 + signum, 128 + signal.SIGTERM)
    error = capsys.readouterr().err
    assert error.endswith(": Interrupted\n") and error.count("\n") == 1 and not unraisable
    assert signal.getsignal(signum) is before


def test_what_a_signal_has_made_of_an_import_is_no_mistake(capsys) -> None:
    with pytest.raises(SystemExit) as end, exit_on_user_errors():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None
    assert end.value.code == 143 and capsys.readouterr().err.endswith(": Interrupted\n")


def test_what_to_do_is_said_where_it_is_known(capsys) -> None:
    with pytest.raises(SystemExit), exit_on_user_errors():
        raise Terminated(signal.SIGINT, "go on")
    assert capsys.readouterr().err.endswith(": Interrupted: go on\n")


def test_an_echo_is_no_second_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pid = [100.0], [os.getpid()]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    requests = Requests()
    monkeypatch.setattr(signals.os, "getpid", lambda: pid[0])
    numbers = []
    for seconds, process in [(0, 0), (0.5, 0), (0.4, 0), (0.3, 1), (0.1, 0), (0.9, 0), (1, 0)]:
        now[0], pid[0] = now[0] + seconds, pid[0] + process
        numbers.append(requests.note(signal.SIGINT))
        pid[0] -= process
    assert numbers == [1, 0, 0, 0, 2, 0, 2] and requests.signum == signal.SIGINT


def test_nohup_is_obeyed() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with raised():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with raised(), pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.parametrize("flags", [[], ["--eval-only"], ["--check"]], ids=str)
def test_a_signal_within_the_checks(flags, command_line, train_net, out, monkeypatch, capsys) -> None:
    """Of the data, in the process that also trains."""
    checks = importlib.import_module("fpt_d2.engine.checks")
    monkeypatch.setattr(checks, "find_weights", lambda *_, **__: None)
    monkeypatch.setattr(checks, "check_datasets", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    assert train_net(command_line(*flags, "MODEL.WEIGHTS", "w.pth")) == 143
    assert capsys.readouterr().err == "train_net.py: Interrupted\n"


def test_a_data_worker_outlives_signals_but_not_its_parent(unraisable: list[Any]) -> None:
    records = [{"image_id": i, "width": 2, "height": 2} for i in range(4)]
    batches = iter(resumable_loader(records, total_batch_size=2, mapper=dict, num_workers=1))
    next(batches)
    (worker,) = multiprocessing.active_children()
    for signum in (*STOP_SIGNALS, *STOP_SIGNALS):
        subprocess.run(["kill", f"-{signum}", str(worker.pid)], check=True)
    assert len([next(batches) for _ in range(6)]) == 6 and worker.is_alive()
    worker.terminate()  # as Python does at its end, and then waits
    worker.join(20)
    assert worker.exitcode == 0 and not unraisable


def test_a_closed_terminal_does_not_change_the_status() -> None:
    """Standard output and error that take nothing, as /dev/full does."""
    script = "import os, signal; from fpt_d2.cli import exit_on_user_errors\n"
    script += "signal.signal(signal.SIGHUP, signal.SIG_DFL)\nwith exit_on_user_errors():\n"
    script += "    print('line'); os.kill(os.getpid(), signal.SIGHUP)"
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": ""}
        run = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=full, env=environment)
    assert run.returncode == 129


def test_a_background_thread_answers_nothing() -> None:
    found: list[dict[int, Any]] = []
    thread = threading.Thread(target=lambda: found.append(signals.answer(signal.SIG_IGN)))
    thread.start()
    thread.join()
    assert found == [{}]


def test_a_mistake_before_any_signal_keeps_its_traceback() -> None:
    with pytest.raises(ImportError), exit_on_user_errors():
        raise ImportError("ours")
