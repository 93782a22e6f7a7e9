"""Several trainings side by side: how they learn, and what they reach at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from matplotlib.axes import Axes

from .curves import COLORS, Curve, new_figure, save_figure, style_axes

_PANEL_INCHES = (6.4, 4.2)


class Run(NamedTuple):
    """One variant: its name in the legend, the GFLOPs of one image where they are known, and of each metric the curve
    of every seed."""

    name: str
    gflops: float | None
    curves: dict[str, list[Curve]]


def plot_comparison(runs: Sequence[Run], png_path: str | Path, start: Mapping[str, float] | None = None) -> None:
    """Draw a row for each metric: its mean over the iterations, seeds as a band, and its end against the GFLOPs.

    Where every run was evaluated once only, there is nothing to draw over the iterations. All ``runs`` have the same
    metrics; ``start`` has the value of each before the training, a line to compare with.
    """
    metrics = list(runs[0].curves)
    has_curves = any(len(curve) > 1 for run in runs for curves in run.curves.values() for curve in curves)
    columns = 2 if has_curves else 1
    figure = new_figure(columns, len(metrics), _PANEL_INCHES, dpi=110)
    for row, metric in zip(figure.subplots(len(metrics), columns, squeeze=False), metrics):
        if has_curves:
            _draw_learning(row[0], runs, metric, start)
        _draw_ends(row[-1], runs, metric)
    save_figure(figure, png_path)


def _draw_learning(axes: Axes, runs: Sequence[Run], metric: str, start: Mapping[str, float] | None) -> None:
    if start:
        axes.axhline(start[metric], color="0.4", linewidth=1.2, linestyle="--", label="start")
    for index, run in enumerate(runs):
        _draw_mean_and_band(axes, run.curves[metric], run.name, COLORS[index % len(COLORS)])
    style_axes(axes, metric, show_legend=True)
    axes.set_ylim(auto=True)
    axes.margins(y=0.1)  # fits the limits to the values


def _draw_mean_and_band(axes: Axes, curves: Sequence[Curve], label: str, color: str) -> None:
    """The mean and the band between the extremes, where every seed has been evaluated."""
    seeds = [dict(curve) for curve in curves]
    iterations = sorted(set.intersection(*(set(seed) for seed in seeds)))
    values = [[seed[i] for seed in seeds] for i in iterations]
    axes.plot(iterations, [mean(v) for v in values], color=color, linewidth=1.8, marker="o", markersize=4, label=label)
    lowest, highest = [min(v) for v in values], [max(v) for v in values]
    axes.fill_between(iterations, lowest, highest, color=color, alpha=0.15, linewidth=0)


def _draw_ends(axes: Axes, runs: Sequence[Run], metric: str) -> None:
    """A dot for every seed and a line at their mean; side by side unless the GFLOPs of all are known."""
    style_axes(axes, f"{metric} in the end", show_legend=False)
    axes.set_ylim(auto=True)
    axes.margins(x=0.25, y=0.15)
    known = [run.gflops for run in runs if run.gflops is not None]
    is_known = len(known) == len(runs)
    axes.set_xlabel("GFLOPs of one image" if is_known else "", fontsize=11)
    if not is_known:
        axes.set_xticks([])
    for index, (run, place) in enumerate(zip(runs, known if is_known else range(len(runs)))):
        color = COLORS[index % len(COLORS)]
        ends = [curve[-1][1] for curve in run.curves[metric]]
        axes.scatter([place] * len(ends), ends, s=22, color=color, alpha=0.6, linewidths=0)
        axes.scatter([place], [mean(ends)], s=90, color=color, marker="_", linewidths=2.5)
        axes.annotate(run.name, (place, mean(ends)), (7, 3), textcoords="offset points", fontsize=10)
