#!/usr/bin/env python
"""Check and measure every CUDA path on this machine's GPU, and write one report: report.md and report.json.

Sections: correctness of every path and of its gradients, speed and memory of the kernels, of whole necks and of
Mask R-CNN against FPN. Those of necks and detectors need Detectron2 and are left out without it; the others need torch
alone. Each runs in processes of its own: what one does not survive, the others do.

Examples:
    python tools/gpu_report.py
    python tools/gpu_report.py --sections correctness kernels --time-limit 4
    python tools/gpu_report.py --quick --device cpu
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fpt_d2.cli import exit_on_user_errors, positive_int
from fpt_d2.commands.common import make_folder, tool_parser

SECTIONS = ("correctness", "kernels", "necks", "detectors")


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add = parser.add_argument
    add("--sections", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="NAME", help="default: all four")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is to try the command (default cuda)")
    add("--batch", type=positive_int, default=16, help="images in a training step of a detector (default 16)")
    add("--time-limit", type=positive_int, default=8, metavar="MINUTES", help="of the whole run (default 8)")
    add("--quick", action="store_true", help="tiny sizes, few cases and one repeat: does it run?")
    add("--output", type=Path, default=Path("output/gpu_report"), metavar="DIR", help="default %(default)s")
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    make_folder(args.output)
    from benchmarks.gpu_report import run

    run(args, command=" ".join(sys.argv if argv is None else ["tools/gpu_report.py", *argv]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
