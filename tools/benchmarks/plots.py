"""Time and memory against image area, as pictures."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import Result

QUANTITIES = {"time": ("seconds", "seconds per step"), "memory": ("peak_mib", "peak MiB above inputs")}
PANELS_PER_ROW = 4


def save_plots(folder: Path, results: list[Result]) -> None:
    """``<suite>_time.png`` and ``<suite>_memory.png``: a panel for each case and mode, log-log.

    Memory that was computed and did not fit is dotted.
    """
    for suite in dict.fromkeys(r.suite for r in results):
        for name, (quantity, label) in QUANTITIES.items():
            figure = _figure([r for r in results if r.suite == suite], quantity, label)
            figure.savefig(folder / f"{suite}_{name}.png", dpi=110)


def _figure(results: list[Result], quantity: str, label: str) -> Figure:
    panels = list(dict.fromkeys((r.case, r.mode) for r in results))
    columns = min(len(panels), PANELS_PER_ROW)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(8, 3.6 * columns), 3.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (case, mode) in zip(axes.flat, panels):
        _panel(axis, [r for r in results if (r.case, r.mode) == (case, mode)], quantity)
        axis.set(title=f"{case}, {mode}", xlabel="image area, megapixel", ylabel=label)
    return figure


def _panel(axis: Axes, results: list[Result], quantity: str) -> None:
    axis.set(xscale="log", yscale="log")
    for color, entry in zip(matplotlib.color_sequences["tab10"], dict.fromkeys(r.entry for r in results)):
        points = sorted((r.area / 1e6, getattr(r, quantity), r.computed_mib) for r in results if r.entry == entry)
        measured = [(area, value) for area, value, _ in points if value is not None]
        style = {"marker": "o", "markersize": 4, "color": color}
        if measured:
            axis.plot(*zip(*measured), **style, label=entry)
        computed = [(area, need) for area, value, need in points if value is None and need is not None]
        if quantity == "peak_mib" and computed:
            axis.plot(*zip(*measured[-1:], *computed), ":", **style, mfc="none", label=f"{entry}, computed")
    axis.grid(which="major", alpha=0.3)
    axis.legend(fontsize=8)
