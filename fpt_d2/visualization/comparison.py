"""Several trainings side by side: how they learn, and what they reach at what cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from matplotlib.axes import Axes

from .curves import COLORS, Curve, new_figure, save_figure, style_axes

_PANEL_INCHES = (6.4, 4.2)
# Beyond seven variants the colors come again, with another marker.
_MARKERS = ("o", "s", "^", "D")


class Run(NamedTuple):
    """One variant: its name, its cost where that is known, and of each metric the curve of every seed."""

    name: str
    cost: float | None
    curves: dict[str, list[Curve]]


def plot_comparison(
    runs: Sequence[Run],
    png_path: str | Path,
    start: Mapping[str, float] | None = None,
    *,
    cost: str = "GFLOPs of one image",
) -> None:
    """Draw a row for each metric: its mean over the iterations, seeds as a band, and its end against the cost.

    Where every run was evaluated once only, there is nothing to draw over the iterations. All ``runs`` have the same
    metrics; ``start`` has the value of each before the training, a line to compare with; ``cost`` is what the runs'
    cost is of, with its unit.
    """
    metrics = list(runs[0].curves)
    has_curves = any(len(curve) > 1 for run in runs for curves in run.curves.values() for curve in curves)
    columns = 2 if has_curves else 1
    width, height = _PANEL_INCHES
    figure = new_figure(columns, len(metrics), (width, max(height, 0.3 * len(runs))), dpi=110)
    for row, metric in zip(figure.subplots(len(metrics), columns, squeeze=False), metrics):
        if has_curves:
            _draw_learning(row[0], runs, metric, start)
        _draw_ends(row[-1], runs, metric, cost)
    save_figure(figure, png_path)


def _look(index: int) -> tuple[str, str]:
    """Color and marker of a run."""
    return COLORS[index % len(COLORS)], _MARKERS[index // len(COLORS) % len(_MARKERS)]


def _draw_learning(axes: Axes, runs: Sequence[Run], metric: str, start: Mapping[str, float] | None) -> None:
    """Without a legend: the panel beside it has the names, in the same looks."""
    if start:
        axes.axhline(start[metric], color="0.4", linewidth=1.2, linestyle="--")
        axes.annotate("start", (1, start[metric]), (-3, 3), ("axes fraction", "data"), "offset points", ha="right")
    for index, run in enumerate(runs):
        _draw_mean_and_band(axes, run.curves[metric], *_look(index))
    style_axes(axes, metric, show_legend=False)
    axes.set_ylim(auto=True)
    axes.margins(y=0.1)  # fits the limits to the values


def _draw_mean_and_band(axes: Axes, curves: Sequence[Curve], color: str, marker: str) -> None:
    """The mean and the band between the extremes, where every seed has been evaluated."""
    seeds = [dict(curve) for curve in curves]
    iterations = sorted(set.intersection(*(set(seed) for seed in seeds)))
    values = [[seed[i] for seed in seeds] for i in iterations]
    axes.plot(iterations, [mean(v) for v in values], color=color, linewidth=1.8, marker=marker, markersize=4)
    lowest, highest = [min(v) for v in values], [max(v) for v in values]
    axes.fill_between(iterations, lowest, highest, color=color, alpha=0.15, linewidth=0)


def _draw_ends(axes: Axes, runs: Sequence[Run], metric: str, cost: str) -> None:
    """A dot for every seed, a larger one at their mean; side by side unless the cost of all is known."""
    style_axes(axes, f"{metric} in the end", show_legend=False, over_iterations=False)
    axes.set_ylim(auto=True)
    known = [run.cost for run in runs if run.cost is not None]
    is_known = len(known) == len(runs)
    axes.set_xlabel(cost if is_known else "", fontsize=11)
    if not is_known:
        axes.set_xticks([])
    means = []
    for index, (run, place) in enumerate(zip(runs, known if is_known else range(len(runs)))):
        ends = [curve[-1][1] for curve in run.curves[metric]]
        means.append((place, mean(ends)))
        color, marker = _look(index)
        axes.scatter([place] * len(ends), ends, s=14, color=color, marker=marker, alpha=0.5, linewidths=0)
        axes.scatter(*means[-1], s=60, color=color, marker=marker, edgecolors="black", linewidths=0.8, zorder=3)
    axes.margins(x=0.1, y=0.12)
    axes.autoscale_view()
    _write_names(axes, [run.name for run in runs], means)


def _write_names(axes: Axes, names: Sequence[str], points: Sequence[tuple[float, float]]) -> None:
    """Each name in a column right of the panel, the highest point's first, with a line to its point."""
    low, high = axes.get_ylim()
    order = sorted(range(len(names)), key=lambda i: -points[i][1])
    heights = spread_out([(points[i][1] - low) / (high - low) for i in order], min(0.07, 0.98 / len(names)))
    for i, height in zip(order, heights):
        color, _ = _look(i)
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.8, "alpha": 0.7, "shrinkB": 4}
        axes.annotate(
            names[i],
            points[i],
            (1.04, height),
            textcoords="axes fraction",
            fontsize=10,
            verticalalignment="center",
            arrowprops=line,
        )


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """Places for labels that want these ``heights``, falling: at least ``gap`` apart, and up to 1 where they fit."""
    places: list[float] = []
    for height in heights:
        places.append(min(height, places[-1] - gap) if places else min(height, 1.0))
    lowest = 0.0  # those that were pushed below the panel come back up, and push others
    for i in reversed(range(len(places))):
        places[i] = max(places[i], lowest)
        lowest = places[i] + gap
    return places
