"""Processes that measure for another one; imports nothing that takes long, for it is the first that they import."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence


def end_with_parent() -> None:
    """End this process when its parent does: a step may take minutes, and nobody waits for it where that was killed.

    Ctrl-C, which a terminal sends to both, is left to the parent.
    """

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()


def run_isolated(jobs: Sequence[Callable[[], None]], seconds: float) -> list[str]:
    """Run each job in a fresh process, all at once: an error of CUDA ends with its process.

    Returns:
        How each ended: "" well, else how it did, such as "was stopped after 60 s".
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(job,), daemon=True) for job in jobs]
    for process in processes:
        process.start()
    deadline, endings = time.monotonic() + seconds, []
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
            endings.append(f"was stopped after {seconds:.0f} s")
        else:
            endings.append("" if process.exitcode == 0 else f"ended with status {process.exitcode}")
    return endings


def _run(job: Callable[[], None]) -> None:
    end_with_parent()
    job()
