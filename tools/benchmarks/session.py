"""One run of the benchmark: which entries run at which size, which are skipped and why, and in what order."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Optional

import torch

from .cost import Cost, Machine, compute_cost
from .measure import FirstStep, OutOfMemory, Time, start_runner
from .workload import Entry, Setting

MIB = 2**20


@dataclass(frozen=True)
class Result:
    """One entry at one size in one mode. What was not measured is None, and ``note`` says why.

    Attributes:
        seconds: median; process CPU time per thread on the CPU, the clock's on a GPU. Ratios are made of it.
        wall_seconds: median by the clock.
        peak_mib: highest memory above inputs and parameters.
        computed_mib: the same, computed from the operators; of the forms that store every score only.
        gflops: in matrix products and convolutions.
        rate_share: achieved share of the rate of a large matrix product on the same device in the same run.
    """

    suite: str
    case: str
    entry: str
    height: int
    width: int
    batch: int
    mode: str
    seconds: Optional[float] = None
    wall_seconds: Optional[float] = None
    images_per_second: Optional[float] = None
    peak_mib: Optional[float] = None
    computed_mib: Optional[float] = None
    gflops: Optional[float] = None
    rate_share: Optional[float] = None
    note: str = ""

    @property
    def area(self) -> int:
        return self.height * self.width


@dataclass
class Session:
    """Measures groups of entries.

    Attributes:
        memory_limit: bytes that a step may need.
        max_seconds: an entry estimated to take longer for one step is skipped; none is repeated for longer.
        progress: called with what is going on.
    """

    machine: Machine
    modes: Sequence[str]
    repeats: int
    threads: int
    memory_limit: float
    max_seconds: float
    progress: Callable[[str], None]
    # area and duration of the last size measured, by entry and mode
    _last: dict[tuple[str, str, str], tuple[int, float]] = field(default_factory=dict)

    def measure_case(self, suite: str, entries: list[Entry], setting: Setting) -> Iterator[Result]:
        """Measure entries of one case at one size, in turn in each mode."""
        runners = {}
        try:
            for mode in self.modes:
                where = f"{entries[0].case}, {setting.height} x {setting.width}, {mode}"
                self.progress(where)
                blanks, firsts = {}, {}
                for entry in entries:
                    blanks[entry.name] = self._plan(suite, entry, setting, mode)
                    if blanks[entry.name].note:
                        continue
                    self.progress(f"{where}: {entry.name}")
                    if entry.name not in runners:
                        runners[entry.name] = start_runner(entry, setting, self.threads)
                    try:
                        firsts[entry.name] = runners[entry.name].first_step(mode)
                    except OutOfMemory:
                        runners.pop(entry.name).close()
                        blanks[entry.name] = replace(blanks[entry.name], note="ran out of memory")
                self.progress(where)
                times = self._repeat({name: runners[name] for name in firsts}, firsts, mode)
                for name, blank in blanks.items():
                    yield self._finish(blank, firsts[name], times[name]) if name in firsts else blank
        finally:
            for runner in runners.values():
                runner.close()

    def _plan(self, suite: str, entry: Entry, setting: Setting, mode: str) -> Result:
        """The result before it is measured; its note says why it must not be."""
        blank = Result(suite, entry.case, entry.name, setting.height, setting.width, setting.batch, mode)
        if entry.outline is None:
            area, seconds = self._last.get((entry.case, entry.name, mode), (blank.area, 0.0))
            return replace(blank, note=self._too_long(seconds * blank.area / area))
        cost = compute_cost(entry.outline, setting, mode)
        blank = replace(blank, gflops=cost.flops / 1e9)
        if entry.outline is not entry.make:
            return replace(blank, note=self._too_long(cost.flops / self.machine.matrix_rate))
        blank = replace(blank, computed_mib=cost.peak_bytes / MIB)
        return replace(blank, note=self._too_large(cost) or self._too_long(cost.seconds(self.machine)))

    def _too_large(self, cost: Cost) -> str:
        return f"skipped: needs {cost.peak_bytes / 2**30:.1f} GiB" if cost.peak_bytes > self.memory_limit else ""

    def _too_long(self, seconds: float) -> str:
        return f"skipped: takes about {seconds:.0f} s" if seconds > self.max_seconds else ""

    def _repeat(self, runners: dict, firsts: dict[str, FirstStep], mode: str) -> dict[str, list[Time]]:
        """Steps in turn, A B C A B C: what the machine does besides falls on all alike."""
        times: dict[str, list[Time]] = {name: [] for name in runners}
        for _ in range(self.repeats):
            for name, runner in runners.items():
                last = [firsts[name].time, *times[name]][-1].wall_seconds
                if last * (len(times[name]) + 2) <= self.max_seconds:
                    times[name].append(runner.step(mode))
        return {name: taken or [firsts[name].time] for name, taken in times.items()}

    def _finish(self, blank: Result, first: FirstStep, times: list[Time]) -> Result:
        seconds = statistics.median(t.seconds for t in times)
        self._last[blank.case, blank.entry, blank.mode] = blank.area, seconds
        return replace(
            blank,
            seconds=seconds,
            wall_seconds=statistics.median(t.wall_seconds for t in times),
            images_per_second=blank.batch / seconds,
            peak_mib=None if first.peak_bytes is None else first.peak_bytes / MIB,
            gflops=first.flops / 1e9,
            rate_share=first.flops / seconds / self.machine.matrix_rate,
            note="one step" if len(times) == 1 < self.repeats else "",
        )


def available_memory(device: str) -> float:
    """Bytes that can be allocated now; without a bound where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except OSError:
        return float("inf")
