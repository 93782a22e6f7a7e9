"""The picture of several trainings side by side."""

import pytest
from PIL import Image

from fpt_d2.visualization import Run, plot_comparison
from fpt_d2.visualization.comparison import spread_out


def test_draws_every_metric_and_takes_seeds_of_different_lengths(tmp_path):
    curves = {"bbox/AP": [[(9, 10.0), (19, 30.0)], [(9, 12.0)]], "segm/AP": [[(9, 9.0)], [(9, 8.0)]]}
    path = tmp_path / "new" / "comparison.png"
    plot_comparison([Run("FPN", 1.5, curves), Run("FPT", 2.5, curves)], path)
    with Image.open(path) as image:
        two_rows = image.size
    plot_comparison([Run("FPN", 1.5, {"bbox/AP": curves["bbox/AP"]})], path)
    with Image.open(path) as image:
        assert image.size == (two_rows[0], two_rows[1] // 2)
    once = {"bbox/AP": [[(9, 10.0)], [(9, 12.0)]]}
    plot_comparison([Run("FPN", 1.5, once)], path)
    with Image.open(path) as image:  # without a panel over the iterations
        assert image.size == (two_rows[0] // 2, two_rows[1] // 2)


def test_variants_stand_side_by_side_where_one_has_no_gflops(tmp_path):
    curves = {"bbox/AP": [[(9, 10.0)]]}
    pictures = []
    for gflops in ((1.0, None), (5.0, None), (1.0, 5.0)):
        plot_comparison([Run("a", gflops[0], curves), Run("b", gflops[1], curves)], tmp_path / "comparison.png")
        with Image.open(tmp_path / "comparison.png") as image:
            pictures.append(image.tobytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_the_start_is_a_line(tmp_path):
    run = Run("FPT", 1.5, {"bbox/AP": [[(9, 10.0), (19, 30.0)]]})
    pictures = []
    for start in (None, {"bbox/AP": 20.0}):
        plot_comparison([run], tmp_path / "comparison.png", start)
        with Image.open(tmp_path / "comparison.png") as image:
            pictures.append(image.tobytes())
    assert pictures[0] != pictures[1]


@pytest.mark.parametrize(
    "heights, places",
    [
        ([0.9, 0.5, 0.1], [0.9, 0.5, 0.1]),
        ([0.5, 0.5, 0.5], [0.5, 0.3, 0.1]),
        ([0.1, 0.05, 0.0], [0.4, 0.2, 0.0]),
        ([1.3, 1.2], [1.0, 0.8]),
    ],
)
def test_labels_are_spread_out(heights, places):
    assert spread_out(heights, 0.2) == pytest.approx(places)


def test_the_cost_is_named_and_many_variants_have_room(tmp_path):
    sizes = []
    for number in (2, 20):
        runs = [Run(f"variant {i}", 1.0 + i, {"bbox/AP": [[(9, 10.0 + i)]]}) for i in range(number)]
        plot_comparison(runs, tmp_path / "comparison.png", cost="minutes")
        with Image.open(tmp_path / "comparison.png") as image:
            sizes.append(image.size)
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] < sizes[1][1]
