#!/usr/bin/env python
"""Measure time, memory and FLOPs of FPT, of its textbook form and of plain FPN, side by side in one run.

Writes benchmark.csv, benchmark.json and pictures into --output. Sizes are those of the image, HEIGHTxWIDTH.

Examples:
    python tools/benchmark.py --quick
    python tools/benchmark.py --suite necks --sizes 512x512 800x1333 --max-seconds 600
    python tools/benchmark.py --device cuda --dtype bfloat16 --suite detectors --batch 16
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fpt_d2.cli import exit_on_user_errors, image_size, positive_int, positive_number
from fpt_d2.commands.common import make_folder, tool_parser

SUITES = ("kernels", "necks", "detectors", "segmentation")


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--suite", choices=(*SUITES, "all"), default="all", help="what to measure (default all)")
    add("--sizes", nargs="+", type=image_size, metavar="HxW", help="of the image (default: each suite's own)")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--channels-last", action="store_true", help="memory format of the networks and their maps")
    add("--batch", type=positive_int, help="images in a batch (default 1; 8 crops in Semantic FPN)")
    add("--only", nargs="+", metavar="NAME", help="cases or entries whose names contain one of these")
    add("--mode", choices=("forward", "training", "both"), default="both", help="default both")
    add("--repeats", type=positive_int, default=5, help="steps that the median is taken of (default 5)")
    add(
        "--allocator",
        choices=("both", "returned"),
        default="both",
        help="on the CPU: measure with freed memory kept too, beside what glibc does, which returns large blocks to "
        "the system (default both: three steps in the place of one)",
    )
    add("--threads", type=positive_int, default=1, help="on the CPU (default 1: robust where others work too)")
    add("--max-seconds", type=positive_number, default=120, help="skip what takes longer for one step (default 120)")
    add("--memory-limit", type=positive_number, metavar="GIB", help="skip above it (default 80%% of what is free)")
    add("--quick", action="store_true", help="tiny sizes and one repeat: does it run?")
    add("--output", type=Path, default=Path("output/benchmark"), metavar="DIR", help="default %(default)s")
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    make_folder(args.output)
    from benchmarks.session import run

    run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
