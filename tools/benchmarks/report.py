"""What a run of the benchmark leaves: a table, CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

MIB = 2**20


@dataclass(frozen=True)
class Result:
    """One entry at one size in one mode. What was not measured is None, and ``note`` says why.

    Attributes:
        seconds: median; processor time per thread (user and system) on the CPU, the clock's on a GPU.
        peak_mib: highest memory above inputs and parameters.
        kept_seconds: the same where freed memory stays with the process; ``seconds`` has it go back to the system as
            glibc does by itself, so that large maps are faulted in at each step. CPU only.
        computed_mib: the same as ``peak_mib``, computed from the operators; of the forms that store every score only.
        gflops: in matrix products and convolutions.
        rate_share: achieved share of the rate of a large matrix product on the same device in the same run.
        baseline: entries of the same case, joined by " + ", whose seconds and peak this one's are divided by.
        time_ratio, kept_time_ratio, memory_ratio: the quotients. Peaks of several entries do not add up.
        work_baseline, work_ratio: the entry whose multiply-adds this one's are divided by, and the quotient.
    """

    suite: str
    case: str
    entry: str
    height: int
    width: int
    batch: int
    mode: str
    seconds: float | None = None
    user_seconds: float | None = None
    system_seconds: float | None = None
    wall_seconds: float | None = None
    kept_seconds: float | None = None
    images_per_second: float | None = None
    peak_mib: float | None = None
    computed_mib: float | None = None
    gflops: float | None = None
    rate_share: float | None = None
    baseline: str = ""
    time_ratio: float | None = None
    kept_time_ratio: float | None = None
    memory_ratio: float | None = None
    work_baseline: str = ""
    work_ratio: float | None = None
    note: str = ""

    @property
    def area(self) -> int:
        return self.height * self.width


def compared(result: Result, peers: Mapping[str, Result]) -> Result:
    """``result`` with its ratios to its baseline, as far as all of it was measured.

    Args:
        peers: the results of the same case, size and mode by entry.
    """
    others = [peers.get(name) for name in result.baseline.split(" + ")]

    def ratio(quantity: str, others: Sequence[Result | None]) -> float | None:
        values = [None if one is None else getattr(one, quantity) for one in (result, *others)]
        return None if None in values else values[0] / sum(values[1:])

    return replace(
        result,
        time_ratio=ratio("seconds", others),
        kept_time_ratio=ratio("kept_seconds", others),
        memory_ratio=ratio("peak_mib", others) if len(others) == 1 else None,
        work_ratio=ratio("gflops", [peers.get(result.work_baseline)]),
    )


def results_table(results: list[Result]) -> str:
    """One line for each entry, size and mode, in Markdown."""
    rows = [
        {
            "case": r.case,
            "entry": r.entry,
            "image": f"{r.batch} of {r.height} x {r.width}" if r.batch > 1 else f"{r.height} x {r.width}",
            "mode": r.mode,
            "seconds": digits(r.seconds),
            "user": digits(r.user_seconds),
            "system": digits(r.system_seconds),
            "seconds, memory kept": digits(r.kept_seconds),
            "by the clock": digits(r.wall_seconds),
            "images/s": digits(r.images_per_second),
            "peak MiB": digits(r.peak_mib),
            "computed MiB": digits(r.computed_mib),
            "GMAC": "" if r.gflops is None else digits(r.gflops / 2),
            "GMAC ratio": "" if r.work_ratio is None else f"{digits(r.work_ratio)} x {r.work_baseline}",
            "of matrix rate": "" if r.rate_share is None else f"{r.rate_share:.0%}",
            "time ratio": digits(r.time_ratio),
            "time ratio, memory kept": digits(r.kept_time_ratio),
            "memory ratio": digits(r.memory_ratio),
            "to": r.baseline,
            "": r.note,
        }
        for r in results
    ]
    return markdown_table(rows)


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one table in Markdown, its columns those of all rows in order; numbers with three digits."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return digits(value)
    return "" if value is None else str(value).replace("|", "/")


def save(folder: Path, about: dict[str, Any], results: list[Result]) -> None:
    """Write ``benchmark.csv`` (results) and ``benchmark.json`` (results and what they were measured on)."""
    with open(folder / "benchmark.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Result)])
        writer.writeheader()
        writer.writerows({name: _rounded(value) for name, value in asdict(r).items()} for r in results)
    content = {"about": about, "results": [asdict(r) for r in results]}
    (folder / "benchmark.json").write_text(json.dumps(content, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def digits(value: float | None) -> str:
    """Three significant digits, written out."""
    return "" if value is None else f"{float(f'{value:.3g}'):,.10g}"
