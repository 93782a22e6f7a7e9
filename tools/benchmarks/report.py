"""What a run of the benchmark leaves: a table, the verdicts on the targets, CSV and JSON."""

import csv
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Optional

from tabulate import tabulate

from .session import Result
from .targets import Verdict


def results_table(results: list[Result]) -> str:
    """One line for each entry, size and mode, in Markdown."""
    rows = [
        {
            "case": r.case,
            "entry": r.entry,
            "image": f"{r.height} x {r.width}",
            "mode": r.mode,
            "seconds": _digits(r.seconds),
            "by the clock": _digits(r.wall_seconds),
            "images/s": _digits(r.images_per_second),
            "peak MiB": _digits(r.peak_mib),
            "computed MiB": _digits(r.computed_mib),
            "GFLOP": _digits(r.gflops),
            "of matrix rate": "" if r.rate_share is None else f"{r.rate_share:.0%}",
            "": r.note,
        }
        for r in results
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def verdicts_table(verdicts: list[Verdict]) -> str:
    rows = [
        {
            "target": v.target,
            "asked": v.asked,
            "measured": _digits(v.measured) or "not in this run",
            "reached": {None: "", True: "yes", False: "NO"}[v.reached],
        }
        for v in verdicts
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def save(folder: Path, about: dict[str, Any], results: list[Result], verdicts: list[Verdict]) -> None:
    """Write ``benchmark.csv`` (results) and ``benchmark.json`` (results, verdicts and what they were measured on)."""
    with open(folder / "benchmark.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)])
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in asdict(r).items()} for r in results)
    content = {"about": about, "targets": [asdict(v) for v in verdicts], "results": [asdict(r) for r in results]}
    (folder / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _digits(value: Optional[float]) -> str:
    """Three significant digits, written out."""
    return "" if value is None else f"{float(f'{value:.3g}'):,.10g}"
