"""One run of the benchmark: which entries run at which size, which are skipped and why, and in what order."""

from __future__ import annotations

import argparse
import datetime
import importlib
import logging
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fpt_d2.commands.measuring import Step
from fpt_d2.errors import UserError

from .cost import compute_cost, measure_matrix_rate
from .findings import last_line
from .measure import OutOfMemory, glibc, start_runner
from .report import MIB, Result, compared, results_table, save
from .workload import FORWARD, MODES, TRAIN, Entry, Setting

# A module of this package for each. All but "kernels" need Detectron2, and are imported when they are measured.
SIZES = {
    "kernels": ((256, 256), (512, 512), (800, 1333)),
    "necks": ((256, 256), (512, 512), (1024, 1024), (800, 1333), (2048, 2048)),
    "detectors": ((800, 1333),),
    "segmentation": ((512, 1024),),
}
QUICK_SIZES = ((64, 64),)
# Share of the free memory that a step may need.
MEMORY_SHARE = 0.8


def run(args: argparse.Namespace) -> None:
    """Measure what the command line asks for; saved after each case, so that a run that is broken off leaves it."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs an NVIDIA GPU that torch can use; leave it out for the CPU")
    # Detectron2 says what each of the many models is initialised from.
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    dtype = getattr(torch, args.dtype)
    setting = Setting(0, 0, args.batch or 1, args.device, dtype, args.channels_last)
    plan = _plan(args, setting)
    matrix_rate = measure_matrix_rate(setting)
    about = _about(args, matrix_rate)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    results: list[Result] = []
    session = Session(
        matrix_rate,
        modes={"forward": (FORWARD,), "training": (TRAIN,), "both": MODES}[args.mode],
        repeats=1 if args.quick else args.repeats,
        threads=args.threads,
        memory_limit=args.memory_limit * 2**30 if args.memory_limit else MEMORY_SHARE * free_memory(args.device),
        max_seconds=args.max_seconds,
        keep_memory=args.allocator == "both" and args.device == "cpu" and glibc() is not None,
        progress=lambda what: print(what, file=sys.stderr),
    )
    for suite, entries, sized in plan:
        results += session.measure_case(suite, entries, sized)
        save(args.output, about, results)
    print(f"\n{results_table(results)}\n\n{_draw(args, results)}Saved in {args.output}")


def _draw(args: argparse.Namespace, results: list[Result]) -> str:
    """Save the pictures; what to say where that cannot be done."""
    try:
        from .plots import save_plots
    except ModuleNotFoundError as error:
        return f"No pictures: they need {error.name}\n"
    save_plots(args.output, results)
    return ""


def _plan(args: argparse.Namespace, setting: Setting) -> list[tuple[str, list[Entry], Setting]]:
    """Suite, entries of one case, size; small sizes first."""
    plan = []
    for suite in SIZES if args.suite == "all" else (args.suite,):
        wanted = [entry for entry in suite_entries(suite, args.device) if _is_wanted(entry, args.only)]
        for case in dict.fromkeys(entry.case for entry in wanted):
            entries = [entry for entry in wanted if entry.case == case]
            height, width, batch = entries[0].usual or (0, 0, 1)
            usual = ((height, width),) if height else SIZES[suite]
            batch = args.batch or (1 if args.quick else batch)
            for size in args.sizes or (QUICK_SIZES if args.quick else usual):
                plan.append((suite, entries, replace(setting, height=size[0], width=size[1], batch=batch)))
    if not plan:
        raise UserError(f"--only {' '.join(args.only)} fits no case or entry of --suite {args.suite}")
    suites = list(SIZES)
    return sorted(plan, key=lambda one: (suites.index(one[0]), one[2].height * one[2].width))


def suite_entries(suite: str, device: str) -> list[Entry]:
    """What a suite compares.

    Raises:
        UserError: the suite needs Detectron2, or what that needs, and it is not installed.
    """
    try:
        return importlib.import_module(f".{suite}", __package__).entries(device)
    except ModuleNotFoundError as error:
        raise UserError(
            f"The suite {suite!r} needs Detectron2, and there is no module {error.name}; 'kernels' needs torch alone"
        ) from error


def _is_wanted(entry: Entry, names: Sequence[str] | None) -> bool:
    return names is None or any(name.lower() in f"{entry.case} / {entry.name}".lower() for name in names)


def _about(args: argparse.Namespace, matrix_rate: float) -> dict[str, Any]:
    on_gpu = args.device == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU",
        "cores": os.cpu_count(),
        "threads": args.threads,
        "torch": torch.__version__,
        "dtype": args.dtype,
        "channels last": args.channels_last,
        "batch": args.batch or "each case's own",
        "matrix rate, GFLOP/s": round(matrix_rate / 1e9, 1),
        "seconds": "wall time" if on_gpu else "processor time per thread (user + system), robust to a busy machine",
        "memory kept": "" if on_gpu else "seconds where freed memory stays with the process",
        "peak": "torch.cuda.max_memory_allocated" if on_gpu else "high-water mark of a fresh process",
        "training step": "forward and backward, no optimizer",
    }


def free_memory(device: str) -> float:
    """Bytes that can be allocated now; without a bound where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        with open("/proc/meminfo") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except OSError:
        return float("inf")


@dataclass
class Session:
    """Measures groups of entries.

    Attributes:
        matrix_rate: FLOP per second of a large matrix product.
        memory_limit: bytes that a step may need.
        max_seconds: an entry estimated to take longer for one step is skipped; none is repeated for longer.
        progress: called with what is going on.
        start: makes what runs the steps of an entry.
        keep_memory: measure with freed memory kept too.
        tolerant: an entry that fails says why in its note, and the others go on.
    """

    matrix_rate: float
    modes: Sequence[str]
    repeats: int
    threads: int
    memory_limit: float
    max_seconds: float
    progress: Callable[[str], None]
    start: Callable[[Entry, Setting, int], Any] = start_runner
    keep_memory: bool = False
    tolerant: bool = False
    # area and duration of the last size measured, by entry and mode
    _last: dict[tuple[str, str, str], tuple[int, float]] = field(default_factory=dict)

    def measure_case(self, suite: str, entries: list[Entry], setting: Setting) -> Iterator[Result]:
        """Measure entries of one case at one size, in turn in each mode."""
        runners: dict[str, Any] = {}
        try:
            for mode in self.modes:
                plans = {entry.name: self._plan(suite, entry, setting, mode) for entry in entries}
                firsts: dict[str, Step] = {}
                for entry in entries:
                    if plans[entry.name].note:
                        continue
                    self.progress(f"{entry.case}, {setting.height} x {setting.width}, {mode}: {entry.name}")
                    try:
                        if entry.name not in runners:
                            runners[entry.name] = self.start(entry, setting, self.threads)
                        firsts[entry.name] = runners[entry.name].step(mode, watched=True)
                    except (OutOfMemory, torch.OutOfMemoryError):
                        plans[entry.name] = replace(plans[entry.name], note="ran out of memory")
                    except Exception as error:
                        if not self.tolerant:
                            raise
                        plans[entry.name] = replace(plans[entry.name], note=f"failed: {last_line(error)}")
                    if plans[entry.name].note and entry.name in runners:
                        runners.pop(entry.name).close()
                steps = self._repeat(runners, firsts, mode)
                results = {n: self._finish(p, firsts[n], *steps[n]) if n in firsts else p for n, p in plans.items()}
                yield from (compared(result, results) for result in results.values())
        finally:
            for runner in runners.values():
                runner.close()

    def _plan(self, suite: str, entry: Entry, setting: Setting, mode: str) -> Result:
        """The result before it is measured; its note says why it must not be."""
        size = setting.height, setting.width, setting.batch
        blank = Result(suite, entry.case, entry.name, *size, mode, baseline=" + ".join(entry.baseline))
        blank = replace(blank, work_baseline=entry.work_baseline)
        if entry.formula is not None:
            flops = 2 * entry.formula(setting) * (1 if mode == FORWARD else 3)
            return replace(blank, gflops=flops / 1e9, note="by formula only")
        if entry.outline is None:
            area, seconds = self._last.get((entry.case, entry.name, mode), (blank.area, 0.0))
            return replace(blank, note=self._too_long(seconds * blank.area / area))
        cost = compute_cost(entry.outline, setting, mode)
        plan = replace(blank, gflops=cost.flops / 1e9, note=self._too_long(cost.flops / self.matrix_rate))
        if entry.outline is entry.make:
            plan = replace(plan, computed_mib=cost.peak_bytes / MIB)
            if cost.peak_bytes > self.memory_limit:
                plan = replace(plan, note=f"skipped: needs {cost.peak_bytes / 2**30:.1f} GiB")
        return plan

    def _too_long(self, seconds: float) -> str:
        return f"skipped: takes about {seconds:.0f} s" if seconds > self.max_seconds else ""

    def _repeat(
        self, runners: dict[str, Any], firsts: dict[str, Step], mode: str
    ) -> dict[str, tuple[list[Step], list[Step]]]:
        """Steps in turn, A B C A B C: what the machine does besides falls on all alike.

        With ``keep_memory`` each is followed by one with memory kept; these are the second of each pair.
        """
        steps: dict[str, tuple[list[Step], list[Step]]] = {name: ([], []) for name in firsts}
        for _ in range(self.repeats):
            for name, (taken, kept) in steps.items():
                last = (taken or [firsts[name]])[-1]
                if last.wall_seconds * (len(taken) + 2) * (3 if self.keep_memory else 1) <= self.max_seconds:
                    taken.append(runners[name].step(mode))
                    if self.keep_memory:
                        kept.append(runners[name].step(mode, kept=True))
        return {name: (taken or [firsts[name]], kept) for name, (taken, kept) in steps.items()}

    def _finish(self, plan: Result, first: Step, steps: list[Step], kept: list[Step]) -> Result:
        seconds, user, system, wall = (statistics.median(values) for values in list(zip(*steps))[:4])
        self._last[plan.case, plan.entry, plan.mode] = plan.area, seconds
        return replace(
            plan,
            seconds=seconds,
            user_seconds=user,
            system_seconds=system,
            wall_seconds=wall,
            kept_seconds=statistics.median(step.seconds for step in kept) if kept else None,
            images_per_second=plan.batch / seconds,
            peak_mib=None if first.peak_bytes is None else first.peak_bytes / MIB,
            gflops=first.flops / 1e9,
            rate_share=first.flops / seconds / self.matrix_rate,
            note="one step" if len(steps) == 1 < self.repeats else "",
        )
