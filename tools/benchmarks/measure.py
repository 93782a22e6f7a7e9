"""Time and peak memory of a step: on the CPU in a fresh process for each entry, on a GPU in this one."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from fpt_d2.commands.measuring import Step, flop_counter, measure_time
from fpt_d2.errors import UserError

from .processes import end_with_parent
from .workload import Entry, Setting

# Side of the image of the step before the first, in which the libraries load and set up what they need once.
WARM_UP_SIDE = 32
# A measurement on a GPU takes as many steps as fill this time, so that the wait at its end does not count.
SECONDS_ON_GPU, MAX_STEPS_ON_GPU = 0.02, 100
KILLED = -9
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # of mallopt(3)
# From where on glibc gives memory back: where it ends up by itself, and the most maps that it makes by itself.
GIVEN_BACK_FROM, MAX_MAPS = 2**25, 2**16
SPARE_BYTES = 2**30


class OutOfMemory(UserError):
    """A step needed more memory than there was."""

    def __init__(self) -> None:
        super().__init__("The machine ran out of memory: end what else takes memory, or set a lower --memory-limit")


def start_runner(entry: Entry, setting: Setting, threads: int) -> Runner | RemoteRunner:
    """Allocate what an entry needs, in a process of its own on the CPU, where memory is that of a process."""
    return Runner(entry, setting) if setting.device == "cuda" else RemoteRunner(entry, setting, threads)


class Runner:
    """Runs the steps of one entry in this process."""

    def __init__(self, entry: Entry, setting: Setting) -> None:
        torch.manual_seed(0)
        self._device = setting.device
        self._warm_up = entry.make(replace(setting, height=WARM_UP_SIDE, width=WARM_UP_SIDE))
        self._workload = entry.make(setting)
        self._steps: dict[str, int] = {}  # of one measurement, by mode
        self._peaks: dict[str, int] = {}  # bytes, by mode

    def step(self, mode: str, *, watched: bool = False, kept: bool = False) -> Step:
        """One step.

        Args:
            watched: look at memory and FLOPs too, which takes time; after a step of another size, to warm up.
            kept: on the CPU, after one of its kind, whose memory it finds as a caching allocator keeps it.

        Raises:
            OutOfMemory: on a GPU.
        """
        try:
            if kept:
                with keep_memory(self._peaks.get(mode, 0)):
                    self._workload.step(mode)
                    self._workload.clear()
                    return self._timed_step(mode)
            return self._watched_step(mode) if watched else self._mean_step(mode)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory from error
        finally:
            self._workload.clear()

    def _watched_step(self, mode: str) -> Step:
        with flop_counter():  # which loads what it needs at its first use
            self._warm_up.step(mode)
        self._warm_up.clear()
        if self._device == "cuda":
            self._timed_step(mode)  # kernels are chosen and compiled for each size
            self._workload.clear()
            seconds = self._timed_step(mode).seconds
            self._workload.clear()
            self._steps[mode] = min(MAX_STEPS_ON_GPU, max(1, round(SECONDS_ON_GPU / seconds)))
        peak = _watch_gpu() if self._device == "cuda" else _watch_process()
        with flop_counter() as counter:
            step = self._timed_step(mode)
        peak_bytes = peak()
        self._peaks[mode] = peak_bytes or 0
        return step._replace(peak_bytes=peak_bytes, flops=counter.get_total_flops())

    def _timed_step(self, mode: str) -> Step:
        return measure_time(lambda: self._workload.step(mode), self._device)

    def _mean_step(self, mode: str) -> Step:
        """On a GPU the mean of several steps where one is short."""
        steps = self._steps.get(mode, 1)

        def run() -> None:
            for _ in range(steps):
                self._workload.clear()
                self._workload.step(mode)

        whole = measure_time(run, self._device)
        return Step(*(seconds / steps for seconds in whole[:4]))

    def close(self) -> None:
        del self._warm_up, self._workload


class RemoteRunner:
    """A :class:`Runner` in a fresh process, which has imported everything and allocated nothing yet."""

    def __init__(self, entry: Entry, setting: Setting, threads: int) -> None:
        # A forked copy of a server that only imports: as fresh as a new process, without its start-up time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "detectron2.modeling", "fpt_d2.modeling"])
        self._connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there, entry, setting, threads), daemon=True)
        self.process.start()
        there.close()

    def step(self, mode: str, **how: bool) -> Step:
        """As that of :class:`Runner`.

        Raises:
            OutOfMemory: the system killed the process.
        """
        try:
            self._connection.send((mode, how))
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self.process.join()
            if self.process.exitcode == KILLED:
                raise OutOfMemory from error
            raise RuntimeError("a measuring process failed; its error is above") from error

    def close(self) -> None:
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection, entry: Entry, setting: Setting, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    runner = Runner(entry, setting)
    while True:
        mode, how = connection.recv()
        connection.send(runner.step(mode, **how))


def glibc() -> ctypes.CDLL | None:
    """The C library, where it can be told what to do with freed memory."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "malloc_trim") else None


@contextlib.contextmanager
def keep_memory(num_bytes: int) -> Iterator[None]:
    """Freed memory stays with this process, and goes back to the system at the end.

    Args:
        num_bytes: how much is going to be used. Twice as much, or ``SPARE_BYTES`` more, is touched before, in one
            piece: an aligned block often does not fit, by some bytes, where one of its size has been freed, and would
            be of new pages again.
    """
    libc = glibc()
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, -1)
    try:
        torch.empty(num_bytes + min(num_bytes, SPARE_BYTES) + 2**20, dtype=torch.uint8).fill_(1)
        yield
    finally:
        libc.mallopt(M_MMAP_MAX, MAX_MAPS)
        _give_back_from(libc, GIVEN_BACK_FROM)
        libc.malloc_trim(0)


def _give_back_from(libc: ctypes.CDLL, size: int) -> None:
    libc.mallopt(M_MMAP_THRESHOLD, size)
    libc.mallopt(M_TRIM_THRESHOLD, 2 * size)


def _watch_gpu() -> Callable[[], int]:
    """Start to watch; what is returned says the highest memory since."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = torch.cuda.memory_allocated()
    return lambda: torch.cuda.max_memory_allocated() - start


def _watch_process() -> Callable[[], int | None]:
    """The same of this process's resident memory, on Linux.

    Memory that was freed but stays with the allocator would be used again unseen: all of it is given back first, and
    what is freed from here on goes back at once, until the peak is asked for.
    """
    libc = glibc()
    if libc is None:
        return lambda: None

    def peak() -> int:
        peak = _status("VmHWM") - start
        _give_back_from(libc, GIVEN_BACK_FROM)
        return peak

    _give_back_from(libc, 2**16)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again at what is resident now
    start = _status("VmRSS")
    return peak


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
