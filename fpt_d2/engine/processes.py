"""Processes on this machine that end together: by one sentence, by one traceback, or all saved."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import STOP_SIGNALS, LostProcess, Terminated, TrainingError, UserError, interruption
from ..signals import Requests, answer, give_back

# How long to wait for the others after a process has died or waited in vain: one of them may know why.
_GRACE_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Report:
    """How a process has ended.

    Attributes:
        kind: "done", "stopped" (by a signal), "refused" (by a UserError), "failed" (by any other exception), "lost"
            (the others), or "died" (without a word).
        what: the sentence, the traceback, or the status; after a signal what to do now.
        signum: number of the signal.
    """

    kind: str
    what: str = ""
    signum: int = 0


def run_processes(works: Sequence[Callable[[], Any]], remedy: Callable[[], str] = lambda: "start it again") -> None:
    """Run each of ``works``, which must pickle, in a process of its own until all have ended or one has failed.

    The signals that stop a training are passed on, also where they reach this process alone, and the processes end when
    this one does. A second Ctrl-C ends all at once.

    Args:
        works: the functions.
        remedy: what to do after one of them has died.

    Raises:
        UserError: one of them has raised it, has died, or has not answered the others.
        Terminated: they were stopped.
        SystemExit: one has raised another exception, whose traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in works]
    processes = [context.Process(target=_work, args=(w, pipe[1], os.getpid())) for w, pipe in zip(works, pipes)]
    with _passed_on(processes) as requests:
        try:
            with _held_back():
                for process, (_, sender) in zip(processes, pipes):
                    process.start()
                    sender.close()
            reports = _await([receiver for receiver, _ in pipes], processes)
        finally:
            _end(processes)
    _answer(reports, len(works), requests.signum, remedy)


@contextmanager
def _held_back() -> Iterator[None]:
    """Let signals wait, in what is started too, until it answers them: its imports take seconds."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # without holding two of them back any longer
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(work: Callable[[], Any], sender: Connection, parent: int) -> None:
    """What a process does; it then tells the parent how it ended, and with a failure waits to be ended."""
    _end_with_parent(parent)
    # Not by spawn, as this process was: data workers then start at once, and need not pickle anything.
    multiprocessing.set_start_method(None, force=True)
    report = _report(work)
    answer(signal.SIG_IGN)
    sender.send(report)
    if report.kind in ("lost", "refused", "failed"):
        sys.stdout.flush()
        time.sleep(2 * _GRACE_SECONDS)


def _report(work: Callable[[], Any]) -> Report:
    requests = Requests()

    def end(signum: int, frame: Any) -> None:
        if requests.note(signum) == 1:  # the parent answers the second one
            raise Terminated(signum)

    try:
        answer(end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        work()
    except KeyboardInterrupt as error:
        return Report("stopped", getattr(error, "note", ""), interruption(error))
    except LostProcess as error:
        return Report("lost", str(error))
    except UserError as error:
        return Report("refused", str(error))
    except BaseException:  # to be shown by the parent, once
        if requests.signum:  # which has ended a data worker, or an import
            return Report("stopped", "", requests.signum)
        return Report("failed", traceback.format_exc())
    return Report("done")


def _end_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _passed_on(processes: Sequence[BaseProcess]) -> Iterator[Requests]:
    """Pass the signals that stop a training on as SIGTERM; yields what is known of them."""
    requests = Requests()

    def pass_on(signum: int, frame: Any) -> None:
        if not (number := requests.note(signum)):
            return
        at_once = signum == signal.SIGINT and number > 1
        for process in processes:
            if process.pid and process.is_alive():
                os.kill(process.pid, signal.SIGKILL if at_once else signal.SIGTERM)

    handlers = answer(pass_on)
    try:
        yield requests
    finally:
        give_back(handlers)


def _await(receivers: Sequence[Connection], processes: Sequence[BaseProcess]) -> dict[int, Report]:
    """The reports by rank, of all or of those that came until it was clear that the training has failed."""
    reports: dict[int, Report] = {}
    deadline = None
    while len(reports) < len(receivers) and (deadline is None or time.monotonic() < deadline):
        pending = [receiver for rank, receiver in enumerate(receivers) if rank not in reports]
        for receiver in wait(pending, timeout=None if deadline is None else deadline - time.monotonic()):
            rank = receivers.index(receiver)
            report = reports[rank] = _receive(receivers[rank], processes[rank])
            if report.kind in ("refused", "failed"):
                return reports
            if report.kind in ("died", "lost") and deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
    return reports


def _receive(receiver: Connection, process: BaseProcess) -> Report:
    try:
        report: Report = receiver.recv()
        return report
    except EOFError:
        process.join()
        return Report("died", str(process.exitcode))


def _end(processes: Sequence[BaseProcess]) -> None:
    """Give those that have finished the time to, and end the others."""
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in (p for p in processes if p.pid):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _answer(reports: dict[int, Report], processes: int, signum: int, remedy: Callable[[], str]) -> None:
    """Raise what the reports, and the signal that came, say of the whole."""

    def first(kind: str) -> tuple[int, Report] | None:
        return next(((rank, report) for rank, report in sorted(reports.items()) if report.kind == kind), None)

    if refused := first("refused"):
        raise TrainingError(refused[1].what)
    if failed := first("failed"):
        sys.stderr.write(failed[1].what)
        sys.exit(1)
    stopped = first("stopped")
    if signum or stopped:
        _, report = stopped or (0, Report("stopped"))
        raise Terminated(signum or report.signum, report.what)
    if died := first("died"):
        rank, status = died[0], int(died[1].what)
        end = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        hint = ", which a machine out of memory does" if -status == signal.SIGKILL else ""
        raise TrainingError(f"Process {rank} of {processes} {end}{hint}: {remedy()}")
    if lost := first("lost"):
        silent = [rank for rank in range(processes) if rank not in reports]
        who = f" (process {silent[0]} of {processes} on this machine is the one that is silent)" if silent else ""
        raise TrainingError(f"{lost[1].what}{who}: {remedy()}")
