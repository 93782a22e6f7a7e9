"""Several trainings side by side: how they learn, and what they reach at what cost."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import NamedTuple, Union

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .curves import COLORS, Curve, style_axes

_PANEL_INCHES = (6.4, 4.2)


class Run(NamedTuple):
    """One variant.

    Attributes:
        name: in the legend.
        gflops: of one image.
        curves: of each metric the curve of every seed.
    """

    name: str
    gflops: float
    curves: dict[str, list[Curve]]


def plot_comparison(runs: Sequence[Run], png_path: Union[str, Path]) -> None:
    """Draw a row for each metric: its mean over the iterations, seeds as a band, and its end against the GFLOPs.

    Args:
        runs: with the same metrics.
        png_path: the picture to write; its folder is made if needed.
    """
    metrics = list(runs[0].curves)
    figure = Figure(figsize=(2 * _PANEL_INCHES[0], len(metrics) * _PANEL_INCHES[1]), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    for row, metric in enumerate(metrics):
        learning, reached = (figure.add_subplot(len(metrics), 2, 2 * row + column) for column in (1, 2))
        for index, run in enumerate(runs):
            color = COLORS[index % len(COLORS)]
            _draw_curves(learning, run.curves[metric], run.name, color)
            ends = [curve[-1][1] for curve in run.curves[metric]]
            reached.scatter([run.gflops] * len(ends), ends, s=22, color=color, alpha=0.6, linewidths=0)
            reached.scatter([run.gflops], [mean(ends)], s=90, color=color, marker="_", linewidths=2.5)
            reached.annotate(run.name, (run.gflops, mean(ends)), (7, 3), textcoords="offset points", fontsize=10)
        style_axes(learning, metric, show_legend=True)
        style_axes(reached, f"{metric} in the end", show_legend=False)
        learning.set_ylim(auto=True)
        reached.set_ylim(auto=True)
        reached.margins(x=0.25, y=0.15)
        reached.set_xlabel("GFLOPs of one image", fontsize=11)
    Path(png_path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path)


def _draw_curves(axes: Axes, curves: Sequence[Curve], label: str, color: str) -> None:
    """The mean and the band between the extremes, where every seed has been evaluated."""
    values = [dict(curve) for curve in curves]
    iterations = sorted(set.intersection(*(set(v) for v in values)))
    at = [[v[i] for v in values] for i in iterations]
    axes.plot(iterations, [mean(v) for v in at], color=color, linewidth=1.8, marker="o", markersize=4, label=label)
    axes.fill_between(iterations, [min(v) for v in at], [max(v) for v in at], color=color, alpha=0.15, linewidth=0)
