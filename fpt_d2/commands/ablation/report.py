"""From the results of an ablation to its tables and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tabulate import tabulate

from .recipe import START
from .results import Row

_STEP_NOTE = (
    "s / step: seconds of one training step without the loading of its batch, on one thread of the processor (on a GPU "
    "by the clock), measured in turn with the other rows; training: all steps, without evaluations; "
    "×: over the baseline."
)


def write(results: Mapping[str, Any], folder: Path) -> str:
    """Write ``ablation.md`` and ``ablation.png``; returns the text."""
    from ...visualization import Run, plot_comparison

    text = "\n\n".join(part for part in (table(results), _notes(results), paired_table(results)) if part)
    (folder / "ablation.md").write_text(text + "\n", encoding="utf-8")
    rows = results["variants"]
    has_steps = all(_minutes(row) is not None for row in rows)
    runs = [
        Run(
            row["variant"],
            _minutes(row) if has_steps else row["gflops"],
            {
                metric: [[(i, y) for i, y in curve] for curve in seeds.values()]
                for metric, seeds in row["curves"].items()
            },
        )
        for row in rows
    ]
    cost = "training cost: steps × time of a step (minutes)" if has_steps else "GFLOPs of one image"
    plot_comparison(runs, folder / "ablation.png", results["start"], cost=cost)
    return text


def table(results: Mapping[str, Any]) -> str:
    """A row for each variant; rows that a claim rests on are bold."""
    metrics, rows = results["metrics"], results["variants"]
    lines = [{"": START, **{m: f"{results['start'][m]:.1f}" for m in metrics}}] if results["start"] else []
    for row in rows:
        name = f"**{row['variant']}**" if row["is_claim"] else row["variant"]
        line = {"": name, **{m: _spread(list(_ends(row, m).values())) for m in metrics}}
        line["seeds"] = len(row["curves"][metrics[0]])
        line |= {"iterations": row["iterations"], "params (M)": row["params_m"], "GFLOPs": row["gflops"]}
        lines.append(line | _time_cells(row, rows))
    headers = list(dict.fromkeys(key for line in lines[::-1] for key in line))
    cells = [[line.get(header) for header in headers] for line in lines]
    return str(tabulate(cells, headers, tablefmt="github", floatfmt=".3g", intfmt="d"))


def _time_cells(row: Row, rows: Sequence[Row]) -> Row:
    """Of one step and of the training: measured, with the ratio to the baseline; else what the logs say."""
    if "step_seconds" not in row:
        return {"s / iteration": row["seconds_per_iteration"]}
    seconds, minutes = f"{row['step_seconds']:.3g}", f"{_minutes(row):.3g}"
    base = _root(rows, row)
    if base is not row and "step_seconds" in base:
        seconds += f" (×{row['step_seconds'] / base['step_seconds']:.2f})"
        minutes += f" (×{_minutes(row) / _minutes(base):.2f})"
    return {"s / step": seconds, "training (min)": minutes}


def _notes(results: Mapping[str, Any]) -> str:
    rows, notes = results["variants"], []
    if any("step_seconds" in row for row in rows):
        notes.append(_STEP_NOTE)
    for row in rows:
        if (like := _find(rows, row["equal_cost_to"])) is not None:
            ratio = like["step_seconds"] / row["step_seconds"]
            notes.append(
                f"{row['variant']}: {row['iterations']} iterations cost what the {like['iterations']} of "
                f"{like['variant']} do, whose step takes {ratio:.2f} times as long."
            )
    if results["unfinished"]:
        notes.append(f"Not finished: {'; '.join(results['unfinished'])}.")
    if nothing := "; ".join(results["nothing"]):
        notes.append(f"A metric was NaN, as Detectron2 has it without a prediction, and counts as 0: {nothing}.")
    return "\n\n".join(notes)


def paired_table(results: Mapping[str, Any]) -> str:
    """Each variant less its baseline, seed by seed; empty where nothing is compared."""
    lines = []
    for row in results["variants"]:
        if (base := _find(results["variants"], row["baseline"])) is None:
            continue
        for metric in results["metrics"]:
            own, other = _ends(row, metric), _ends(base, metric)
            if pairs := [own[seed] - other[seed] for seed in own if seed in other]:
                lines.append([f"{row['variant']} − {base['variant']}", metric, *_paired_cells(pairs)])
    headers = ["", "metric", "mean difference", "standard error", "lowest to highest", "seeds better"]
    return tabulate(lines, headers, tablefmt="github", disable_numparse=True) if lines else ""


def _paired_cells(pairs: Sequence[float]) -> list[str]:
    """Of three seeds the standard error says little: it stands beside all that there is."""
    error = f"{stdev(pairs) / len(pairs) ** 0.5:.2f}" if len(pairs) > 1 else ""
    spread = f"{min(pairs):+.2f} to {max(pairs):+.2f}" if len(pairs) > 1 else ""
    return [f"{mean(pairs):+.2f}", error, spread, f"{sum(pair > 0 for pair in pairs)} of {len(pairs)}"]


def _ends(row: Row, metric: str) -> dict[str, float]:
    """By seed, the value at the end."""
    return {seed: curve[-1][1] for seed, curve in row["curves"][metric].items()}


def _minutes(row: Row) -> Any:
    """Of a training; None where its step was not measured."""
    return row["iterations"] * row["step_seconds"] / 60 if "step_seconds" in row else None


def _find(rows: Sequence[Row], name: str | None) -> Row | None:
    return next((row for row in rows if row["variant"] == name), None)


def _root(rows: Sequence[Row], row: Row) -> Row:
    """The row that a chain of baselines ends with: its cost is what the others' is divided by."""
    for _ in rows:  # as long as a chain can be
        row = _find(rows, row["baseline"]) or row
    return row


def _spread(values: Sequence[float]) -> str:
    text = f"{mean(values):.1f}"
    return text if len(values) == 1 else f"{text} ({min(values):.1f} to {max(values):.1f})"
