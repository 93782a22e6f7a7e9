"""The page of the GPU report: a verdict for each goal, then the sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .correctness import summary
from .findings import Findings, Row
from .kernels import BOUNDED
from .report import digits, markdown_table
from .speed import side_by_side

OURS = "ours (triton)"
MODEL = "FPT budget, summed at stride 8"  # of the COCO configs
# Throughput and memory of the model's training over FPN's; speed of the kernel over that of the path of today.
MIN_THROUGHPUT, MAX_MEMORY, MIN_SPEED_UP = 0.7, 1.5, 1.5
NOT_MEASURED = "not measured"


def report_page(about: Mapping[str, Any], sections: Mapping[str, Findings]) -> str:
    """In Markdown."""
    lines = ["# GPU report", "", *(f"- {name}: {value}" for name, value in about.items()), "", "## Goals", ""]
    lines += [f"- {line}" for line in verdicts(sections)]
    pages = {"correctness": _correctness, "kernels": _kernels, "necks": _necks, "detectors": _detectors}
    for name, found in sections.items():
        lines += ["", f"## {name.capitalize()}", *pages[name](found.tables)]
        lines += ["", *found.notes] if found.notes else []
        if found.left_out:
            lines += ["", f"Left out for lack of time: {'; '.join(found.left_out)}"]
    return "\n".join(lines) + "\n"


def verdicts(sections: Mapping[str, Findings]) -> list[str]:
    """A sentence for each goal."""
    tables = {name: rows for found in sections.values() for name, rows in found.tables.items()}
    errors, reads = tables.get("errors", []), tables.get("reads", [])
    failures = sum(not row["passes"] for row in errors)
    counts = [row.get("reads of the device") for row in reads]
    known = [count for count in counts if count is not None]
    said = f"at most {max(known)}, of {len(counts)} necks" if known else NOT_MEASURED
    return [
        f"Every path computes what the textbook does: {_judged(bool(errors), not failures)}"
        + (f", {failures} of {len(errors)} comparisons fail" if errors else ""),
        f"A padded forward pass of a neck reads the device once: {_judged(bool(known), max(known, default=0) <= 1)}"
        + (f", {said}" if known else ""),
        _kernel_verdict(tables.get("kernels", [])),
        *_detector_verdicts(tables.get("detectors", [])),
    ]


def _judged(is_known: bool, is_met: bool) -> str:
    return ("MET" if is_met else "NOT MET") if is_known else NOT_MEASURED


def _kernel_verdict(rows: Sequence[Row]) -> str:
    """Of the keys that the configs keep, in the dtype of training."""
    wanted = [r for r in rows if r["entry"] == OURS and r["case"].endswith(BOUNDED) and r["dtype"] == "bfloat16"]
    ratios = sorted(r["times as fast as sdpa"] for r in wanted if r.get("times as fast as sdpa"))
    goal = f"The mixture kernel is {MIN_SPEED_UP} times as fast as the path of today (sdpa), bfloat16{BOUNDED}"
    if not ratios:
        return f"{goal}: {NOT_MEASURED}"
    fast = sum(ratio >= MIN_SPEED_UP for ratio in ratios)
    verdict = _judged(True, fast == len(wanted))
    return f"{goal}: {verdict}, in {fast} of {len(wanted)} cases; {digits(ratios[0])} to {digits(ratios[-1])} times"


def _detector_verdicts(rows: Sequence[Row]) -> list[str]:
    lines = []
    row = next((r for r in rows if r["mode"] == "training" and r["entry"] == MODEL), {})
    speed, memory = row.get("throughput over FPN's"), row.get("memory over FPN's")
    batch = f" at batch {row['batch']}, AMP" if row else ""
    for goal, value, is_met in (
        (f"at least {MIN_THROUGHPUT} of FPN's throughput", speed, (speed or 0) >= MIN_THROUGHPUT),
        (f"at most {MAX_MEMORY} times FPN's memory", memory, (memory or 0) <= MAX_MEMORY),
    ):
        said = f" ({digits(value)})" if value else ""
        lines.append(f"Mask R-CNN R50, {MODEL}, trains{batch} with {goal}: {_judged(bool(value), is_met)}{said}")
    return lines


def _correctness(tables: Mapping[str, list[Row]]) -> list[str]:
    text = (
        "Output and all gradients against the textbook in float64 on the CPU. An error is the larger one of |a - b| / "
        "|b| by the Euclidean norm and by the largest number. A gradient in half precision may have twice the error "
        "of a result; pyramids in half precision run under autocast with float32 parameters."
    )
    return ["", text, *_table(summary(tables.get("errors", [])))]


def _kernels(tables: Mapping[str, list[Row]]) -> list[str]:
    rows, by, lines = tables.get("kernels", []), ("case", "dtype", "mode"), []
    captions = {
        "ms": "Milliseconds",
        "times as fast as sdpa": "Times as fast as sdpa, the path of today",
        "peak MiB": "Peak MiB above the inputs",
        "of matrix rate": "Share of the rate of a large matrix product, by the FLOP of the textbook",
    }
    for value, caption in captions.items():
        lines += ["", f"{caption}:", *_table(side_by_side(rows, value, by))]
    lines += ["", *dict.fromkeys(f"- {row['entry']}: {row['note']}" for row in rows if row["note"])]
    for name, caption in (("launches", "CUDA kernels"), ("reads", "Reads of the device in a padded forward pass")):
        if name in tables:
            lines += ["", f"{caption}:", *_table(tables[name])]
    return lines


def _necks(tables: Mapping[str, list[Row]]) -> list[str]:
    return _table(tables.get("necks", []))


def _detectors(tables: Mapping[str, list[Row]]) -> list[str]:
    return _table(tables.get("detectors", []))


def _table(rows: Sequence[Row]) -> list[str]:
    return ["", markdown_table(rows)] if rows else ["", "Nothing was measured."]
