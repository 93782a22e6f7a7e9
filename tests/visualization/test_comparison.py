"""The picture of several trainings side by side."""

from PIL import Image

from fpt_d2.visualization import Run, plot_comparison


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
