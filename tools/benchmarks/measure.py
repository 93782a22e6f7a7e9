"""Time and peak memory of a step: on the CPU in a fresh process for each entry, on a GPU in this one."""

import ctypes
import gc
import inspect
import multiprocessing
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Optional, Union

import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .workload import Entry, Setting

# Side of the image of the step before the first, in which the libraries load and set up what they need once.
WARM_UP_SIDE = 32
KILLED = -9


@dataclass(frozen=True)
class Time:
    """Duration of a step.

    Attributes:
        seconds: what ratios are made of: process CPU time per thread on the CPU, which another busy process changes
            little; the clock's on a GPU.
        wall_seconds: by the clock.
    """

    seconds: float
    wall_seconds: float


@dataclass(frozen=True)
class FirstStep:
    """The first step of its size.

    Attributes:
        time: with what only a first step does.
        peak_bytes: highest memory above inputs and parameters; None where the system does not say.
        flops: in matrix products and convolutions.
    """

    time: Time
    peak_bytes: Optional[int]
    flops: int


class OutOfMemory(Exception):
    """A step needed more memory than there was."""


def measure_time(function: Callable[[], object], device: str) -> Time:
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    start, cpu_start = time.perf_counter(), time.process_time()
    function()
    if on_gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    return Time(wall if on_gpu else cpu / torch.get_num_threads(), wall)


def flop_counter() -> FlopCounterMode:
    """Torch's counter of FLOPs, with the operators that it leaves out."""
    aten = torch.ops.aten
    fused = "_scaled_dot_product_flash_attention"
    missing = {
        aten.addmm_: aten.addmm,
        getattr(aten, f"{fused}_for_cpu"): getattr(aten, fused),
        getattr(aten, f"{fused}_for_cpu_backward"): getattr(aten, f"{fused}_backward"),
    }
    formulas = {operator: inspect.unwrap(flop_registry[like]) for operator, like in missing.items()}
    return FlopCounterMode(display=False, custom_mapping=formulas)


def start_runner(entry: Entry, setting: Setting, threads: int) -> Union["Runner", "RemoteRunner"]:
    """Allocate what an entry needs, in a process of its own on the CPU, where memory is that of a process."""
    return Runner(entry, setting) if setting.device == "cuda" else RemoteRunner(entry, setting, threads)


class Runner:
    """Runs the steps of one entry in this process."""

    def __init__(self, entry: Entry, setting: Setting) -> None:
        torch.manual_seed(0)
        self._device = setting.device
        small = replace(setting, height=WARM_UP_SIDE, width=WARM_UP_SIDE)
        self._warm_up, self._workload = entry.make(small), entry.make(setting)

    def first_step(self, mode: str) -> FirstStep:
        """One step, watched.

        Raises:
            OutOfMemory: on a GPU.
        """
        self._warm_up.step(mode)
        self._warm_up.clear()
        watch = _GpuMemory() if self._device == "cuda" else _ProcessMemory()
        try:
            with flop_counter() as counter:
                duration = measure_time(lambda: self._workload.step(mode), self._device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory from error
        peak = watch.peak()
        self._workload.clear()
        return FirstStep(duration, peak, counter.get_total_flops())

    def step(self, mode: str) -> Time:
        duration = measure_time(lambda: self._workload.step(mode), self._device)
        self._workload.clear()
        return duration

    def close(self) -> None:
        del self._warm_up, self._workload


class RemoteRunner:
    """A :class:`Runner` in a fresh process, which has imported everything and allocated nothing yet."""

    def __init__(self, entry: Entry, setting: Setting, threads: int) -> None:
        # A forked copy of a server that only imports: as fresh as a new process, without its start-up time.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "detectron2.modeling", "fpt_d2.modeling"])
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, entry, setting, threads), daemon=True)
        self._process.start()
        there.close()

    def first_step(self, mode: str) -> FirstStep:
        """One step, watched.

        Raises:
            OutOfMemory: the system ended the process.
        """
        return self._ask("first_step", mode)

    def step(self, mode: str) -> Time:
        return self._ask("step", mode)

    def close(self) -> None:
        self._process.terminate()
        self._process.join()

    def _ask(self, method: str, mode: str):
        try:
            self._connection.send((method, mode))
            return self._connection.recv()
        except (EOFError, ConnectionError) as error:
            self._process.join()
            if self._process.exitcode == KILLED:
                raise OutOfMemory from error
            raise RuntimeError("a measuring process failed; its error is above") from error


def _serve(connection: Connection, entry: Entry, setting: Setting, threads: int) -> None:
    torch.set_num_threads(threads)
    runner = Runner(entry, setting)
    while True:
        method, mode = connection.recv()
        connection.send(getattr(runner, method)(mode))


class _GpuMemory:
    def __init__(self) -> None:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self._start = torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self._start


class _ProcessMemory:
    """The high-water mark of this process's resident memory, on Linux.

    Memory that was freed but stays with the allocator would be used again unseen: all of it is given back first, and
    what is freed from here on goes back at once. :meth:`peak` returns to an allocator that keeps it, for the timing.
    """

    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of mallopt(3)
    TRIM, MMAP = -1, -3

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        if not hasattr(self._libc, "malloc_trim"):
            self._libc = None
            return
        self._set_thresholds(2**16)
        self._libc.malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the high-water mark starts again at what is resident now
        self._start = self._status("VmRSS")

    def peak(self) -> Optional[int]:
        if self._libc is None:
            return None
        peak = self._status("VmHWM") - self._start
        self._set_thresholds(2**25)  # where glibc ends up by itself
        return peak

    def _set_thresholds(self, size: int) -> None:
        self._libc.mallopt(self.MMAP, size)
        self._libc.mallopt(self.TRIM, 2 * size)

    @staticmethod
    def _status(field: str) -> int:
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith(field))
        return int(line.split()[1]) * 1024
