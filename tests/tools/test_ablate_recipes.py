"""Recipes: what one says, what is wrong with one, and those of recipes/."""

from pathlib import Path

import pytest

from fpt_d2.commands.ablation.plan import plan, read, scaled_schedule, with_equal_cost
from fpt_d2.commands.ablation.recipe import read_recipe
from fpt_d2.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "quick_schedules" / "faster_rcnn_R_18_FPT_quickstart.yaml"
VARIANTS = "variants: {FPN: {keys: {MODEL.FPT.BRANCHES: []}}, FPT: }"
HEAD = f"config: {CONFIG}\nmetrics: [bbox/AP]\n"
EQUAL = "variants: {A: {equal_cost_to: B}, B: {equal_cost_to: %s}, C: }"


def write(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "does not consist of keys and values"),
        ("a: [", "is not valid YAML"),
        (f"{HEAD}varients: {{A: }}", "is wrong: there is no key varients: did you mean variants"),
        (f"{HEAD}variants: {{A: {{kyes: {{}}}}}}", "variant A is wrong: there is no key kyes: did you mean keys"),
        (f"{HEAD}variants: {{A: 3}}", "variant A does not consist of keys and values"),
        (f"{HEAD}variants: [A, B]", r"variants is \['A', 'B'\]; allowed: keys and values"),
        (f"{HEAD}variants: {{off: }}", "variant False is not a word: put it in quotes"),
        (f"{HEAD}variants:\n  A: {{}}\n  A: {{}}", "has A twice"),
        (HEAD, "has no variants"),
        (f"metrics: [bbox/AP]\n{VARIANTS}", "variant FPN names no config"),
        (f"config: {CONFIG}\n{VARIANTS}", "names no metric: add metrics"),
        (f"config: {CONFIG}\nmetrics: []\n{VARIANTS}", "names no metric"),
        (f"{HEAD}{VARIANTS}\nseeds: [1, 1]", "seeds 1 1: give each seed once"),
        (f"{HEAD}{VARIANTS}\nseeds: [one]", "seeds one: allowed are whole numbers from 0"),
        (f"{HEAD}{VARIANTS}\nbaseline: FPNN", "baseline names FPNN, which is not a variant: did you mean FPN"),
        (f"{HEAD}{VARIANTS}\nclaims: [FTP]", "claims names FTP, which is not a variant: did you mean FPT"),
        (f"{HEAD}{VARIANTS}\nclaims: [FPT]\nbaseline: FPN", "claims has FPT and not FPN, which it is compared with"),
        (f"{HEAD}{VARIANTS}\ncost: {{steps: 0}}", "cost.steps is 0; allowed: 1 or more"),
        (f"{HEAD}{VARIANTS}\ncost: {{steps: true}}", "steps is True; allowed: a whole number"),
        (HEAD + "variants: {A: {equal_cost_to: B}}", "equal_cost_to of A names B, which is not a variant"),
        (HEAD + "variants: {A: {equal_cost_to: A}}", "equal_cost_to of A names A, whose own cost follows A"),
        (HEAD + EQUAL % "A", "equal_cost_to of A names B, whose own cost follows A"),
        (HEAD + EQUAL % "C", "equal_cost_to of A names B, whose own cost follows C"),
        (f"config: lazy.py\nmetrics: [bbox/AP]\n{VARIANTS}", "lazy.py is a lazy config"),
    ],
)
def test_a_wrong_recipe_is_named_in_a_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        read_recipe(write(tmp_path, text))
    assert "\n" not in str(error.value) and not str(error.value).endswith(".")


def test_keys_of_all_of_the_command_line_and_of_a_variant_in_this_order(tmp_path):
    (tmp_path / "base.yaml").write_text(f'_BASE_: "{CONFIG}"\n')
    text = (
        "config: base.yaml\nmetrics: [bbox/AP]\nkeys: {SOLVER: {BASE_LR: 1e-3, STEPS: [1, 2]}, DATASETS.TEST: [one]}\n"
        "variants: {A: {keys: {SOLVER.BASE_LR: 0.5}}, B: {keys: {MODEL.FPT.NORM: GN}}}"
    )
    recipe = read_recipe(write(tmp_path, text), ["SOLVER.BASE_LR", "0.25", "SEED", "3"], seeds=[4])
    a, b = (training.config for training in plan(recipe, tmp_path / "out"))
    assert (a.SOLVER.BASE_LR, b.SOLVER.BASE_LR) == (0.5, 0.25)
    assert a.SOLVER.STEPS == (1, 2) and a.DATASETS.TEST == ("one",) and b.MODEL.FPT.NORM == "GN"
    assert a.SEED == 4 and a.OUTPUT_DIR == str(tmp_path / "out" / "A" / "seed_4")
    assert read(read_recipe(tmp_path / "recipe.yaml").variants[0].config_file, []).SOLVER.BASE_LR == 0.02
    assert read_recipe(tmp_path / "recipe.yaml", config=str(CONFIG)).variants[0].config_file == str(CONFIG)


@pytest.mark.parametrize("seconds, iterations", [(4.0, 240), (0.5, 1920), (1e9, 1)])
def test_equal_cost_is_equal_iterations_times_seconds(tmp_path, seconds, iterations):
    text = f"{HEAD}keys: {{SOLVER.MAX_ITER: 480}}\nvariants: {{A: {{equal_cost_to: B}}, B: }}"
    recipe = with_equal_cost(read_recipe(write(tmp_path, text)), {"A": seconds, "B": 2.0})
    a, b = plan(recipe, tmp_path)
    assert (a.iterations, b.iterations) == (iterations, 480)


def test_a_schedule_keeps_its_shape():
    opts = ["SOLVER.MAX_ITER", "100", "SOLVER.STEPS", "(60, 90)", "SOLVER.WARMUP_ITERS", "10"]
    cfg = read(str(CONFIG), [*opts, "TEST.EVAL_PERIOD", "25"])
    scaled = read(str(CONFIG), [*opts, *scaled_schedule(cfg, 250)])
    assert scaled.SOLVER.MAX_ITER == 250 and scaled.SOLVER.STEPS == (150, 225) and scaled.SOLVER.WARMUP_ITERS == 25
    assert scaled.TEST.EVAL_PERIOD == 62
    cfg.defrost()
    cfg.TEST.EVAL_PERIOD = 0  # at the end only
    assert scaled_schedule(cfg, 250)[-2:] == ["TEST.EVAL_PERIOD", "0"]


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_of_ours_can_be_planned(file, tmp_path):
    recipe = read_recipe(file)
    assert all(training.config.DATASETS.TEST for training in plan(recipe, tmp_path))


def test_a_recipe_that_comes_with_the_package_is_found_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe("paper_branches.yaml")
    assert read(recipe.variants[0].config_file, recipe.variants[0].opts).MODEL.FPT
    (tmp_path / "paper_branches.yaml").write_text("variants: {}")  # a file of one's own comes first
    with pytest.raises(UserError, match=r"paper_branches\.yaml names no metric"):
        read_recipe("paper_branches.yaml")
