"""Signals that ask a command to end: who answers them, and how often.

One request may arrive more than once. A terminal, srun or torchrun sends it to all processes of a group, and a parent,
or a shell, passes it on to those that have it already.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

from .errors import STOP_SIGNALS, Terminated

Handler: TypeAlias = "Callable[[int, FrameType | None], Any] | signal.Handlers"

# Within this time of a request, others are echoes of it.
_ECHO_SECONDS = 1.0


class Requests:
    """The requests to end that this process gets, not one that is forked from it.

    Attributes:
        signum: the signal of the first one; 0 before it.
    """

    def __init__(self) -> None:
        self.signum = 0
        self._time, self._pid = 0.0, os.getpid()

    def note(self, signum: int) -> int:
        """Number of this request: 1, or 2 for any after it; 0 for an echo, and in a forked process."""
        now = time.monotonic()
        if os.getpid() != self._pid or (self.signum and now - self._time < _ECHO_SECONDS):
            return 0
        number, self._time, self.signum = 2 if self.signum else 1, now, self.signum or signum
        return number


def answer(handler: Handler) -> dict[int, Any]:
    """Let the handler answer :data:`STOP_SIGNALS`; returns who did before, for :func:`give_back`.

    A SIGHUP that nohup lets the process ignore stays ignored. Outside the main thread nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    is_detached = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = [signum for signum in STOP_SIGNALS if signum != signal.SIGHUP or not is_detached]
    return {signum: signal.signal(signum, handler) for signum in heard}


def give_back(handlers: dict[int, Any]) -> None:
    """Undo :func:`answer`."""
    for signum, handler in handlers.items():
        if handler is not None:  # None: not set from Python
            signal.signal(signum, handler)


@contextmanager
def raised() -> Iterator[Requests]:
    """Raise Terminated for each request, yielding what is known of them."""
    requests = Requests()

    def end(signum: int, frame: FrameType | None) -> None:
        if requests.note(signum):
            raise Terminated(signum)

    handlers = answer(end)
    try:
        yield requests
    finally:
        give_back(handlers)


def end_with_parent() -> None:
    """Let a data worker outlive the signals that reach all processes of a training: the step that is being finished
    needs it, and its parent ends it then, by SIGTERM if by nothing else.
    """
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        # In a thread, because a handler is not told who has sent a signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_await_parent, args=(os.getppid(),), daemon=True).start()


def _await_parent(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
