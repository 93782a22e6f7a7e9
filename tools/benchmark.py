#!/usr/bin/env python
"""Measure time, memory and FLOPs of FPT, of its textbook form and of plain FPN, side by side in one run.

Writes benchmark.csv, benchmark.json and pictures into --output. Sizes are those of the image, HEIGHTxWIDTH.

Examples:
    python tools/benchmark.py --quick
    python tools/benchmark.py --suite necks --sizes 512x512 800x1333 --max-seconds 600
    python tools/benchmark.py --device cuda --dtype bfloat16 --suite detectors --batch 16
"""

import argparse
import datetime
import logging
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import torch
from benchmarks import detectors, kernels, necks, segmentation
from benchmarks.cost import Machine, measure_machine
from benchmarks.plots import save_plots
from benchmarks.report import results_table, save, verdicts_table
from benchmarks.session import Result, Session, available_memory
from benchmarks.targets import judge
from benchmarks.workload import FORWARD, TRAIN, Entry, Setting
from tqdm import tqdm

from fpt_d2.engine.command import exit_on_user_errors, image_size, positive_int

SIZES = {
    "kernels": ((256, 256), (512, 512), (800, 1333)),
    "necks": ((256, 256), (512, 512), (1024, 1024), (800, 1333), (2048, 2048)),
    "detectors": ((800, 1333),),
    "segmentation": ((512, 1024),),
}
MODE_NAMES = {"forward": FORWARD, "training": TRAIN}
QUICK_SIZES = ((64, 64),)
# Share of the free memory that a step may need.
MEMORY_SHARE = 0.8


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=(*SIZES, "all"), default="all", help="what to measure (default all)")
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=image_size,
        metavar="HxW",
        help="of the image (default 256x256 to 2048x2048 for necks)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--batch", type=positive_int, default=1, help="images in a batch (default 1)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases or entries whose names contain one of these")
    parser.add_argument("--mode", choices=(*MODE_NAMES, "both"), default="both", help="default both")
    parser.add_argument("--repeats", type=positive_int, default=5, help="steps that the median is taken of (default 5)")
    parser.add_argument(
        "--threads", type=positive_int, default=1, help="on the CPU (default 1: robust where others work too)"
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=120,
        help="skip what is estimated to take longer for one step (default 120)",
    )
    parser.add_argument(
        "--memory-limit", type=float, metavar="GIB", help="skip what needs more (default 80%% of what is free)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one repeat: does it run?")
    parser.add_argument(
        "--output", type=Path, default=Path("output/benchmark"), metavar="DIR", help="default %(default)s"
    )
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs an NVIDIA GPU that torch can use; leave it out for the CPU")
    args.output.mkdir(parents=True, exist_ok=True)
    # Detectron2 says what each of the many models is initialised from.
    logging.getLogger().setLevel(logging.ERROR)
    torch.set_num_threads(args.threads)
    setting = Setting(0, 0, args.batch, args.device, getattr(torch, args.dtype))
    machine = measure_machine(setting)
    about = _about(args, machine)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    results = _measure(args, setting, machine, about)
    verdicts = judge(results, args.device)
    save_plots(args.output, results)
    print(f"\n{results_table(results)}\n\nTargets\n\n{verdicts_table(verdicts)}\n\nSaved in {args.output}")
    return 0


def _measure(args: argparse.Namespace, setting: Setting, machine: Machine, about: dict[str, Any]) -> list[Result]:
    """All results; saved after each case, so that a run that is broken off leaves what it has."""
    plan = _plan(args, setting)
    limit = args.memory_limit * 2**30 if args.memory_limit else MEMORY_SHARE * available_memory(args.device)
    repeats = 1 if args.quick else args.repeats
    results: list[Result] = []
    with tqdm(plan, unit="case", disable=None) as bar:
        modes = tuple(MODE_NAMES.values()) if args.mode == "both" else (MODE_NAMES[args.mode],)
        session = Session(machine, modes, repeats, args.threads, limit, args.max_seconds, progress=bar.set_postfix_str)
        for suite, entries, sized in bar:
            results += session.measure_case(suite, entries, sized)
            save(args.output, about, results, judge(results, args.device))
    return results


def _plan(args: argparse.Namespace, setting: Setting) -> list[tuple[str, list[Entry], Setting]]:
    """Suite, entries of one case, size; small sizes first."""
    tables = {
        "kernels": kernels.entries(args.device),
        "necks": necks.entries(),
        "detectors": detectors.entries(),
        "segmentation": segmentation.entries(),
    }
    plan = []
    for suite in SIZES if args.suite == "all" else (args.suite,):
        sizes = args.sizes or (QUICK_SIZES if args.quick else SIZES[suite])
        for height, width in sorted(sizes, key=lambda size: size[0] * size[1]):
            sized = Setting(height, width, setting.batch, setting.device, setting.dtype)
            for case in dict.fromkeys(entry.case for entry in tables[suite]):
                entries = [entry for entry in tables[suite] if entry.case == case and _is_wanted(entry, args.only)]
                if entries:
                    plan.append((suite, entries, sized))
    if not plan:
        raise ValueError(f"--only {' '.join(args.only)} fits no case or entry of --suite {args.suite}")
    return plan


def _is_wanted(entry: Entry, names: Optional[Sequence[str]]) -> bool:
    return names is None or any(name.lower() in f"{entry.case} / {entry.name}".lower() for name in names)


def _about(args: argparse.Namespace, machine: Machine) -> dict[str, Any]:
    on_gpu = args.device == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if on_gpu else f"{platform.processor() or platform.machine()} CPU",
        "cores": os.cpu_count(),
        "threads": args.threads,
        "torch": torch.__version__,
        "dtype": args.dtype,
        "batch": args.batch,
        "matrix rate, GFLOP/s": round(machine.matrix_rate / 1e9, 1),
        "copy rate, GB/s": round(machine.write_rate / 1e9, 1),
        "seconds": "wall time" if on_gpu else "process CPU time per thread, robust to a busy machine",
        "peak": "torch.cuda.max_memory_allocated" if on_gpu else "high-water mark of a fresh process",
        "training step": "forward and backward, no optimizer",
    }


if __name__ == "__main__":
    sys.exit(main())
