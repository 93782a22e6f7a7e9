"""Learning curves: what is read from metrics.json, and what is drawn of it."""

import json
import math

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from fpt_d2.visualization import curves, plot_learning_curves


def _write(path, records, tail=""):
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def _training(start, stop, *, period=20, loss=1.0):
    return [{"iteration": i, "total_loss": loss, "loss_cls": loss / 2, "lr": 0.01} for i in range(start, stop, period)]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved during a test."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    return figures


def test_a_resumed_run_replaces_what_the_interrupted_one_wrote(tmp_path):
    path = _write(tmp_path / "metrics.json", _training(19, 160, loss=1.0) + _training(99, 200, loss=3.0))
    iterations, losses = zip(*curves.read_metrics(path)["total_loss"])
    assert iterations == (19, 39, 59, 79, 99, 119, 139, 159, 179, 199)
    assert losses == (1.0,) * 4 + (3.0,) * 6


def test_an_abandoned_tail_does_not_survive(tmp_path):
    path = _write(tmp_path / "metrics.json", _training(19, 400, loss=1.0) + _training(19, 60, loss=3.0))
    assert curves.read_metrics(path)["total_loss"] == [(19, 3.0), (39, 3.0), (59, 3.0)]


def test_an_evaluation_written_late_is_no_resume(tmp_path):
    # Detectron2 writes the metrics of iteration 29 with, and after, those of iteration 39.
    records = [*_training(19, 40), {"iteration": 29, "bbox/AP": 5.0}, *_training(59, 80)]
    read = curves.read_metrics(_write(tmp_path / "metrics.json", records))
    assert read["total_loss"] == [(19, 1.0), (39, 1.0), (59, 1.0), (79, 1.0)] and read["bbox/AP"] == [(29, 5.0)]


def test_lines_cut_short_and_values_that_are_not_finite_are_skipped(tmp_path):
    first = _training(19, 40)
    first[0]["bbox/AP"] = math.nan
    path = _write(tmp_path / "metrics.json", first, tail='{"iteration": 59, "total_l')
    with open(path, "a") as file:  # the resumed run appends to the broken line
        file.write('{"iteration": 59, "total_loss": 2.0}\n{"iteration": 79, "total_loss": 5.0}\n[1]\n3\n')
    read = curves.read_metrics(path)
    assert read["total_loss"] == [(19, 1.0), (39, 1.0), (79, 5.0)]
    assert "bbox/AP" not in read


def test_every_kind_of_curve_is_drawn(tmp_path, drawn):
    records = _training(19, 100)
    records[-1] |= {"validation/total_loss": 1.5, "validation/loss_cls": 0.9, "bbox/AP": 40.0, "bbox/AP50": 60.0}
    records[-1] |= {"bbox/AP-circle": 1.0, "bbox/APs": 2.0, "time": 0.1, "fast_rcnn/cls_accuracy": 0.9}
    plot_learning_curves(_write(tmp_path / "metrics.json", records), tmp_path / "new" / "curves.png")
    panels = {axes.get_title(loc="left"): axes for axes in drawn[0].axes}
    assert list(panels) == [
        "Total loss (dashed: validation)",
        "Losses (dashed: validation)",
        "Evaluation",
        "Learning rate",
    ]
    training, validation = panels["Losses (dashed: validation)"].lines
    assert list(training.get_ydata()) == [0.5] * 5 and list(validation.get_ydata()) == [0.9]
    assert training.get_color() == validation.get_color() and training.get_linestyle() != validation.get_linestyle()
    assert [line.get_label() for line in panels["Evaluation"].lines] == ["bbox AP", "bbox AP50"]
    picture = np.asarray(Image.open(tmp_path / "new" / "curves.png").convert("L"))
    assert picture.shape[1] >= 1200 and picture.std() > 10


def test_a_short_training_has_whole_iterations_on_its_axis(tmp_path, drawn):
    plot_learning_curves(_write(tmp_path / "metrics.json", _training(0, 3, period=1)), tmp_path / "curves.png")
    for axes in drawn[0].axes:
        assert all(tick == round(tick) for tick in axes.get_xticks())


def test_only_panels_with_curves_are_drawn(tmp_path, drawn):
    plot_learning_curves(_write(tmp_path / "metrics.json", _training(19, 100)[:1]), tmp_path / "curves.png")
    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == ["Total loss", "Losses", "Learning rate"]


def test_matplotlib_is_left_as_it_was(tmp_path):
    backend, parameters = matplotlib.rcParams["backend"], matplotlib.rcParams.copy()
    plot_learning_curves(_write(tmp_path / "metrics.json", _training(19, 100)), tmp_path / "curves.png")
    assert matplotlib.rcParams["backend"] == backend and matplotlib.rcParams == parameters


def test_nothing_to_draw_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"metrics.json holds no losses.*train for some iterations"):
        plot_learning_curves(_write(tmp_path / "metrics.json", []), tmp_path / "curves.png")
    with pytest.raises(FileNotFoundError):
        plot_learning_curves(tmp_path / "none.json", tmp_path / "curves.png")


def test_lines_by_hand_are_skipped(tmp_path, caplog):
    odd = ["x", None, True, 1.5, -1, 10**400, []]
    records = [*_training(19, 40), *({"iteration": iteration, "total_loss": 9.0} for iteration in odd)]
    records.append({"iteration": 59, "total_loss": 10**400, "lr": "x"})
    read = curves.read_metrics(_write(tmp_path / "metrics.json", records))
    assert read["total_loss"] == [(19, 1.0), (39, 1.0)] and len(read["lr"]) == 2
    assert "line 3 of" in caplog.text and "its iteration is 'x'" in caplog.text
    (tmp_path / "metrics.json").write_bytes(b'\xff\xfe\n{"iteration": 0, "lr": 1}\n')
    assert curves.read_metrics(tmp_path / "metrics.json") == {"lr": [(0, 1)]}
