"""Learning curves from the ``metrics.json`` that Detectron2 writes during training."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

logger = logging.getLogger(__name__)

# Okabe and Ito's colors, which colorblind readers can tell apart; yellow is left out, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_VALIDATION = "validation/"
# The figures of an evaluation that are worth a curve; those of single categories and sizes would hide them.
_SCORES = ("AP", "AP50", "mIoU", "PQ")
_MOST_ITERATIONS = 2**53  # that have a place each on an axis
_PANEL_INCHES = (6.0, 3.8)

Curve = list[tuple[int, float]]

# Title of each plot, and which metrics belong to it.
_PANELS: dict[str, Callable[[str], bool]] = {
    "Total loss": lambda key: _base(key) == "total_loss",
    "Losses": lambda key: "loss" in _base(key) and _base(key) != "total_loss",
    "Evaluation": lambda key: "/" in key and key.rsplit("/", 1)[-1] in _SCORES,
    "Learning rate": lambda key: key == "lr",
}


def read_metrics(path: str | Path, *, keep_nan: bool = False) -> dict[str, Curve]:
    """Read the curves of one training, which may have been killed and resumed.

    The iterations of training grow within a run. Where they step back, a resumed run has repeated them, and what the
    interrupted run had written from there on is dropped. A line cut short by a kill is skipped.

    Args:
        keep_nan: with the values that are not finite.

    Returns:
        metric name -> [(iteration, value), ...], iterations rising, finite values only.
    """
    records: dict[int, dict[str, Any]] = {}
    last = -1
    for record in _parse_lines(path):
        iteration = record["iteration"]
        # An evaluation between two lines of training may be written after the later one: it says nothing of a resume.
        if "total_loss" in record or "lr" in record:
            if iteration <= last:
                records = {earlier: r for earlier, r in records.items() if earlier < iteration}
            last = iteration
        records.setdefault(iteration, {}).update(record)
    curves: dict[str, Curve] = {}
    for iteration, record in sorted(records.items()):
        for key, value in record.items():
            is_number = key != "iteration" and isinstance(value, (int, float))
            if is_number and (keep_nan or abs(value) <= sys.float_info.max):
                curves.setdefault(key, []).append((iteration, value))
    return curves


def _parse_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                logger.warning("Skipped line %d of %s: it is cut short", number, path)
                continue
            if not isinstance(record, dict) or "iteration" not in record:
                continue
            if type(record["iteration"]) is int and 0 <= record["iteration"] < _MOST_ITERATIONS:
                yield record
            else:
                logger.warning("Skipped line %d of %s: its iteration is %r", number, path, record["iteration"])


def plot_learning_curves(metrics_json: str | Path, png_path: str | Path) -> None:
    """Draw losses, evaluation scores and learning rate over the iterations as one PNG, whose folder is made if needed.

    Raises ValueError if there is nothing to draw.
    """
    curves = read_metrics(metrics_json)
    panels = {title: {key: curves[key] for key in sorted(curves) if belongs(key)} for title, belongs in _PANELS.items()}
    panels = {title: selected for title, selected in panels.items() if selected}
    if not panels:
        raise ValueError(
            f"{metrics_json} holds no losses, scores or learning rate yet: train for some iterations first"
        )
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(columns, rows, _PANEL_INCHES, dpi=120)
    first = None
    for index, (title, selected) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(rows, columns, index, sharex=first)
        first = first or axes
        _draw_panel(axes, title, selected)
    save_figure(figure, png_path)


def _draw_panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Draw the curves: a loss and its validation twin share a color, as do AP and AP50 of one task."""
    groups = list(dict.fromkeys(_group(key) for key in curves))
    for key, curve in curves.items():
        is_validation, is_score = key.startswith(_VALIDATION), key.endswith(_SCORES)
        label = _base(key).removeprefix("loss_").replace("/", " ")
        axes.plot(
            *zip(*curve),
            color=COLORS[groups.index(_group(key)) % len(COLORS)],
            linestyle="--" if is_validation or key.endswith("AP50") else "-",
            linewidth=1.8,
            # Evaluations are few: a marker shows each, and makes a single one visible at all.
            marker="o" if is_validation or is_score or len(curve) == 1 else None,
            markersize=4,
            # One name for the pair; the title says which line is which.
            label=None if is_validation and _base(key) in curves else label,
        )
    if any(key.startswith(_VALIDATION) for key in curves):
        title = f"{title} (dashed: validation)"
    style_axes(axes, title, show_legend=len(groups) > 1)


def _base(key: str) -> str:
    return key.removeprefix(_VALIDATION)


def _group(key: str) -> str:
    """What shares a color: ``validation/loss_cls`` with ``loss_cls``, ``bbox/AP50`` with ``bbox/AP``."""
    return _base(key).rsplit("/", 1)[0]


def new_figure(columns: int, rows: int, panel_inches: tuple[float, float], *, dpi: int) -> Figure:
    """A figure for a grid of panels."""
    size = columns * panel_inches[0], rows * panel_inches[1]
    return Figure(figsize=size, dpi=dpi, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))


def save_figure(figure: Figure, path: str | Path) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def style_axes(axes: Axes, title: str, *, show_legend: bool, over_iterations: bool = True) -> None:
    """What the plots have in common; those over iterations are marked at whole ones."""
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    if over_iterations:
        axes.set_xlabel("iteration", fontsize=11)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.tick_params(labelsize=10)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)
    if show_legend:
        axes.legend(fontsize=11, frameon=False, ncols=2)
