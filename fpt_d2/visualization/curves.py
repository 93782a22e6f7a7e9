"""Learning curves from the ``metrics.json`` that Detectron2 writes during training."""

import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Union

from matplotlib.axes import Axes
from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

# Okabe and Ito's colors, which colorblind readers can tell apart; yellow is left out, too pale on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_VALIDATION = "validation/"
# The figures of an evaluation that are worth a curve; those of single categories and sizes would hide them.
_SCORES = ("AP", "AP50", "mIoU", "PQ")
_PANEL_INCHES = (6.0, 3.8)

Curve = list[tuple[int, float]]


class _Panel(NamedTuple):
    """One plot: its title and which metrics belong to it."""

    title: str
    selects: Callable[[str], bool]


_PANELS = (
    _Panel("Total loss", lambda key: _base(key) == "total_loss"),
    _Panel("Losses", lambda key: "loss" in _base(key) and _base(key) != "total_loss"),
    _Panel("Evaluation", lambda key: "/" in key and key.rsplit("/", 1)[-1] in _SCORES),
    _Panel("Learning rate", lambda key: key == "lr"),
)


def read_metrics(path: Union[str, Path]) -> dict[str, Curve]:
    """Read the curves of one training, which may have been killed and resumed.

    The iterations of training grow within a run. Where they step back, a resumed run has repeated them, and what the
    interrupted run had written from there on is dropped. A line cut short by a kill is skipped.

    Args:
        path: a ``metrics.json``: one JSON object per line.

    Returns:
        metric name -> [(iteration, value), ...], iterations rising, finite values only.

    Raises:
        FileNotFoundError: there is no such file.
    """
    records: dict[int, dict] = {}
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
            if key != "iteration" and isinstance(value, (int, float)) and math.isfinite(value):
                curves.setdefault(key, []).append((iteration, value))
    return curves


def plot_learning_curves(metrics_json: Union[str, Path], png_path: Union[str, Path]) -> None:
    """Draw losses, evaluation scores and learning rate over the iterations as one PNG.

    Args:
        metrics_json: the ``metrics.json`` of a Detectron2 output folder.
        png_path: the picture to write; its folder is made if needed.

    Raises:
        FileNotFoundError: there is no ``metrics_json``.
        ValueError: it holds nothing to draw.
    """
    curves = read_metrics(metrics_json)
    selected = [(panel.title, [key for key in sorted(curves) if panel.selects(key)]) for panel in _PANELS]
    selected = [(title, keys) for title, keys in selected if keys]
    if not selected:
        raise ValueError(
            f"{metrics_json} holds no losses, scores or learning rate yet: train for some iterations first"
        )
    columns = min(2, len(selected))
    rows = math.ceil(len(selected) / columns)
    figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1]), dpi=120, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    first = None
    for index, (title, keys) in enumerate(selected, start=1):
        axes = figure.add_subplot(rows, columns, index, sharex=first)
        first = first or axes
        _draw_panel(axes, title, {key: curves[key] for key in keys})
    Path(png_path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path)


def _parse_lines(path: Union[str, Path]) -> Iterable[dict]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                logger.warning("Skipped line %d of %s: it is cut short", number, path)
                continue
            if isinstance(record, dict) and "iteration" in record:
                yield record


def _base(key: str) -> str:
    return key.removeprefix(_VALIDATION)


def _draw_panel(axes: Axes, title: str, curves: dict[str, Curve]) -> None:
    """Draw the curves: a loss and its validation twin share a color, as do AP and AP50 of one task."""
    groups = list(dict.fromkeys(_group(key) for key in curves))
    for key, curve in curves.items():
        is_validation, is_score = key.startswith(_VALIDATION), key.endswith(_SCORES)
        axes.plot(
            *zip(*curve),
            color=COLORS[groups.index(_group(key)) % len(COLORS)],
            linestyle="--" if is_validation or key.endswith("AP50") else "-",
            linewidth=1.8,
            # Evaluations are few: a marker shows each, and makes a single one visible at all.
            marker="o" if is_validation or is_score or len(curve) == 1 else None,
            markersize=4,
            # One name for the pair; the title says which line is which.
            label=None
            if is_validation and _base(key) in curves
            else _base(key).removeprefix("loss_").replace("/", " "),
        )
    if any(key.startswith(_VALIDATION) for key in curves):
        title = f"{title} (dashed: validation)"
    style_axes(axes, title, show_legend=len(groups) > 1)


def _group(key: str) -> str:
    """What shares a color: ``validation/loss_cls`` with ``loss_cls``, ``bbox/AP50`` with ``bbox/AP``."""
    return _base(key).rsplit("/", 1)[0]


def style_axes(axes: Axes, title: str, *, show_legend: bool) -> None:
    """What the plots over iterations have in common."""
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    axes.set_xlabel("iteration", fontsize=11)
    axes.tick_params(labelsize=10)
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_ylim(bottom=0)
    if show_legend:
        axes.legend(fontsize=11, frameon=False, ncols=2)
