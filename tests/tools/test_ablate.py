"""tools/ablate.py: what it trains, what it goes on with, its tables and picture, and what it refuses."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from fpt_d2.commands import ablate, model_costs
from fpt_d2.commands.ablation import costs, report, running
from fpt_d2.data.synthetic.write_shapes import write_shapes

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quick_schedules" / "faster_rcnn_R_18_FPT_quickstart.yaml")
OPTS = ["--opts", "SOLVER.MAX_ITER", "10"]


def finished(folder, value, last=9, time=0.5):
    folder.mkdir(parents=True)
    end = {"bbox/AP": value, "bbox/AP-star": value, "fast_rcnn/cls_accuracy": 1.0, "time": time}
    records = [{"iteration": 4, "bbox/AP": value / 2}, {"iteration": last, **end}]
    (folder / "metrics.json").write_text("\n".join(json.dumps(record) for record in records))


def words(*variants, metric=("bbox/AP",), seeds=(1,)):
    """A command line of variants, but for --output and OPTS."""
    named = [word for variant in variants for word in ("--variant", *variant)]
    return ["--config-file", CONFIG, *named, "--seeds", *map(str, seeds), "--metric", *metric, "--jobs", "1"]


FPN, FPT = ("FPN", "MODEL.FPT.BRANCHES", "[]"), ("FPT 64", "MODEL.FPT.BRANCH_CHANNELS", "64")


def write_recipe(folder, text):
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


RECIPE = f"""
config: {CONFIG}
keys: {{SOLVER.MAX_ITER: 10, SOLVER: {{STEPS: [6, 8], WARMUP_ITERS: 4}}, TEST.EVAL_PERIOD: 5}}
seeds: [1, 2, 3]
metrics: [bbox/AP]
baseline: FPN
claims: [FPN, FPT]
cost: {{steps: 2, rounds: 3}}
variants:
  FPN: {{keys: {{MODEL.FPT.BRANCHES: []}}}}
  FPT:
  "FPN, FPT's cost": {{keys: {{MODEL.FPT.BRANCHES: []}}, equal_cost_to: FPT}}
"""
SECONDS = {"FPN": 2.0, "FPT": 5.0, "light": 1.0}


@pytest.fixture
def measured(monkeypatch):
    """Names of the variants whose steps were "measured"."""
    asked = []

    def measure(variants, steps, rounds):
        asked.append([variant.name for variant in variants])
        return {variant.name: [SECONDS[variant.name] * f for f in (0.9, 1.0, 1.5)] for variant in variants}

    monkeypatch.setattr(costs, "_measure", measure)
    monkeypatch.setattr(costs, "_count", lambda _: {"params_m": 1.5, "gflops": 2.5, "image": (64, 96)})
    return asked


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.setattr(running, "_train", lambda training, _: pytest.fail(f"{training} was trained"))


def test_finished_trainings_are_compared_and_not_repeated(tmp_path, capsys, untrained):
    for variant, values in (("FPN", (20.0, 30.0)), ("FPT_64", (40.0, 41.0))):
        for seed, value in enumerate(values, start=1):
            finished(tmp_path / variant / f"seed_{seed}", value)
    command = [*words(FPN, FPT, seeds=(1, 2)), "--output", str(tmp_path)]
    assert ablate.main([*command, "--baseline", "FPN", *OPTS]) == 0
    out = capsys.readouterr().out
    assert "Trainings: 4, of them finished before: 4" in out
    assert "25.0 (20.0 to 30.0)" in out and "40.5 (40.0 to 41.0)" in out
    # 20 and 11 points: mean 15.5, standard error 9 / sqrt(2) / sqrt(2).
    assert re.search(r"FPT 64 − FPN +\| bbox/AP +\| \+15\.50 +\| 4\.50 +\| \+11\.00 to \+20\.00 +\| 2 of 2 ", out)
    fpn, fpt = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    assert fpn["curves"] == {"bbox/AP": {"1": [[4, 10.0], [9, 20.0]], "2": [[4, 15.0], [9, 30.0]]}}
    assert fpn["gflops"] < fpt["gflops"]
    with Image.open(tmp_path / "ablation.png") as image:
        assert image.size[0] > 1000
    with pytest.raises(SystemExit, match="FPN has no metric segm/AP; it has bbox/AP$"):
        ablate.main([*words(FPN, metric=("bbox/AP", "segm/AP")), "--output", str(tmp_path), *OPTS])


def test_a_metric_that_is_not_there_ends_it_after_the_first_training(tmp_path, monkeypatch):
    trained = []

    def train(training, _):
        trained.append(training.seed)
        finished(training.folder, 20.0)
        return ""

    monkeypatch.setattr(running, "_train", train)
    with pytest.raises(SystemExit, match="FPT has no metric bbox/ap; it has bbox/AP$"):
        command = words(("FPT",), metric=("bbox/ap",), seeds=(1, 2, 3))
        ablate.main([*command, "--output", str(tmp_path), *OPTS])
    assert trained == [1]


def test_ctrl_c_begins_no_further_training(tmp_path, monkeypatch, capsys):
    trained = []

    def train(training, _):
        trained.append(training.seed)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)  # as a training that saves a checkpoint does
        return "interrupted"

    monkeypatch.setattr(running, "_train", train)
    command = [*words(("FPT",), seeds=(1, 2, 3)), "--output", str(tmp_path), *OPTS]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(SystemExit) as end:
            ablate.main(command)
    finally:
        signal.signal(signal.SIGINT, before)
    assert trained == [1] and end.value.code == 130
    assert "Interrupted: the same command goes on" in capsys.readouterr().err


def test_few_iterations_and_a_cost_that_cannot_be_counted_leave_their_cells_empty(tmp_path, monkeypatch, capsys):
    finished(tmp_path / "FPT" / "seed_1", 20.0, time=None)

    def measure(*_):
        raise model_costs.UncountableError("its head asks for detections")

    monkeypatch.setattr(model_costs, "measure", measure)
    assert ablate.main([*words(("FPT",)), "--output", str(tmp_path), *OPTS]) == 0
    assert "FPT: no cost, as its head asks for detections" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "ablation.json").read_text())["variants"]
    assert row["gflops"] is row["params_m"] is row["seconds_per_iteration"] is None
    assert (tmp_path / "ablation.png").exists()


def test_the_start_is_evaluated_once_and_shown(tmp_path, capsys, monkeypatch):
    commands = []

    def evaluate(command, **_):
        commands.append(command)
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps({"bbox": {"AP": 12.34, "APl": None}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(running.subprocess, "run", evaluate)
    finished(tmp_path / "FPT" / "seed_1", 20.0)
    command = [*words(("FPT",)), "--with-start", "--output", str(tmp_path)]
    for _ in range(2):
        assert ablate.main([*command, *OPTS]) == 0
        assert re.search(r"\| start \| +12\.3", capsys.readouterr().out)
    (given,) = commands
    assert "--eval-only" in given and given[-2:] == ["OUTPUT_DIR", str(tmp_path / "start")]
    assert json.loads((tmp_path / "ablation.json").read_text())["start"] == {"bbox/AP": 12.34}
    shutil.rmtree(tmp_path / "FPT")
    with pytest.raises(SystemExit, match="start has no metric bbox/APl; it has bbox/AP$"):
        ablate.main([*command, "--metric", "bbox/APl", *OPTS])


def test_a_start_that_cannot_be_evaluated_ends_it(tmp_path, monkeypatch, untrained):
    monkeypatch.setattr(running.subprocess, "run", lambda *a, **_: subprocess.CompletedProcess(a, 2, "", "no weights"))
    with pytest.raises(SystemExit, match="evaluation of MODEL.WEIGHTS failed:\nno weights"):
        ablate.main([*words(("A",)), "--with-start", "--output", str(tmp_path), *OPTS])


def test_a_model_that_predicts_nothing_counts_as_zero(tmp_path, capsys, untrained):
    finished(tmp_path / "FPT" / "seed_1", float("nan"))
    finished(tmp_path / "FPT" / "seed_2", 20.0)
    assert ablate.main([*words(("FPT",), seeds=(1, 2)), "--output", str(tmp_path), *OPTS]) == 0
    out = capsys.readouterr().out
    assert "10.0 (0.0 to 20.0)" in out and "counts as 0: FPT, seed 1." in out


def test_a_failure_is_shown_behind_the_table_of_what_is_finished(tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(running, "_train", lambda training, _: trained.append(training.seed) or "no such data set")
    finished(tmp_path / "half" / "seed_1", 1.0)
    finished(tmp_path / "half" / "seed_2", 1.0, last=5)
    with pytest.raises(SystemExit, match="half, seed 2 failed:\nno such data set"):
        ablate.main([*words(("half",), seeds=(1, 2, 3)), "--output", str(tmp_path), *OPTS])
    assert trained == [2]
    out = capsys.readouterr().out
    assert re.search(r"\| half +\| +1(\.0)? \| +1 \|", out) and "Not finished: half, seed 2; half, seed 3." in out


def test_a_folder_of_other_settings_is_refused(tmp_path, monkeypatch):
    def train(training, _):
        training.folder.mkdir(parents=True, exist_ok=True)
        (training.folder / "config.yaml").write_text(training.config.dump())
        return "stopped"

    monkeypatch.setattr(running, "_train", train)
    monkeypatch.chdir(tmp_path)
    base = f'_BASE_: "{CONFIG}"\n'
    Path("my.yaml").write_text(base)
    for file, output in (("my.yaml", "out"), ("./my.yaml", "out"), ("my.yaml", "moved")):  # the same settings
        with pytest.raises(SystemExit, match="stopped"):
            ablate.main(["--config-file", file, "--variant", "FPT", "--output", output, *OPTS])
        shutil.copytree("out", "moved", dirs_exist_ok=True)
    for more, iterations in (("", "20"), ("SOLVER: {BASE_LR: 0.001}\n", "10")):
        Path("my.yaml").write_text(base + more)
        with pytest.raises(SystemExit, match="out/FPT/seed_1 was trained with other settings"):
            command = ["--config-file", "my.yaml", "--variant", "FPT", "--output", "out", *OPTS[:-1], iterations]
            ablate.main(command)


def test_a_recipe_trains_seed_by_seed_with_the_iterations_of_equal_cost(tmp_path, monkeypatch, capsys, measured):
    trained = []

    def train(training, environment):
        assert environment["OMP_WAIT_POLICY"] == "PASSIVE"
        solver, trained_as = training.config.SOLVER, (training.variant, training.seed)
        trained.append(
            (*trained_as, solver.MAX_ITER, solver.STEPS, solver.WARMUP_ITERS, training.config.TEST.EVAL_PERIOD)
        )
        finished(training.folder, 20.0 + 5 * (training.variant == "FPT") + training.seed, last=solver.MAX_ITER - 1)
        return ""

    monkeypatch.setattr(running, "_train", train)
    command = ["--recipe", str(write_recipe(tmp_path, RECIPE)), "--output", str(tmp_path / "out"), "--jobs", "1"]
    assert ablate.main(command) == 0
    own, equal = (10, (6, 8), 4, 5), (25, (15, 20), 10, 12)
    assert trained == [
        ("FPN", 1, *own),
        ("FPT", 1, *own),
        ("FPN, FPT's cost", 1, *equal),  # not a claim: one seed
        *(("FPN", 2, *own), ("FPT", 2, *own), ("FPN", 3, *own), ("FPT", 3, *own)),
    ]
    out = capsys.readouterr().out
    assert "[3 of 7] FPN, FPT's cost, seed 1: bbox/AP 21.00; 0 s" in out
    assert re.search(r"\| \*\*FPT\*\* +\| 27\.0 \(26\.0 to 28\.0\) \| +3 \|", out)
    assert "5 (×2.50)" in out and "0.833 (×2.50)" in out
    assert "FPN, FPT's cost: 25 iterations cost what the 10 of FPT do, whose step takes 2.50 times as long." in out
    assert re.search(r"FPT − FPN +\| bbox/AP +\| \+5\.00 +\| 0\.00 +\| \+5\.00 to \+5\.00 +\| 3 of 3", out)
    assert measured == [["FPN", "FPT"]]  # FPN once
    before = (tmp_path / "out" / "ablation.md").read_text()
    for more in ([], ["--report-only"]):
        assert ablate.main([*command, *more]) == 0
    assert len(trained) == 7 and len(measured) == 1 and (tmp_path / "out" / "ablation.md").read_text() == before


def test_a_further_variant_is_measured_beside_one_that_has_been(tmp_path, monkeypatch, measured):
    monkeypatch.setattr(running, "_train", lambda training, _: finished(training.folder, 1.0) or "")
    short = RECIPE[: RECIPE.index('  "FPN, FPT')]
    command = ["--recipe", str(write_recipe(tmp_path, short)), "--output", str(tmp_path / "out"), "--seeds", "1"]
    assert ablate.main(command) == 0
    write_recipe(tmp_path, short + "  light: {keys: {MODEL.FPT.BRANCH_CHANNELS: 16}, equal_cost_to: FPT}\n")
    now = {name: 3 * seconds for name, seconds in SECONDS.items()}  # a busier machine
    monkeypatch.setattr(
        costs,
        "_measure",
        lambda variants, *_: measured.append([v.name for v in variants]) or {v.name: [now[v.name]] for v in variants},
    )
    trained = []
    monkeypatch.setattr(running, "_train", lambda training, _: trained.append(training) or "enough")
    with pytest.raises(SystemExit, match="enough"):
        ablate.main(command)
    assert measured[1] == ["FPN", "light"]
    kept = json.loads((tmp_path / "out" / "costs.json").read_text()).values()
    assert {row["variant"]: row["step_seconds"] for row in kept} == SECONDS
    assert [training.iterations for training in trained] == [50]


def test_costs_are_divided_by_the_baseline_that_others_lead_to():
    def row(name, baseline, seconds):
        shared = {"is_claim": False, "iterations": 60, "params_m": None, "gflops": None, "equal_cost_to": None}
        return shared | {
            "variant": name,
            "baseline": baseline,
            "step_seconds": seconds,
            "curves": {"bbox/AP": {"1": [[59, 1.0]]}},
        }

    rows = [row("FPN", None, 2.0), row("FPT", "FPN", 5.0), row("control", "FPT", 3.0)]
    text = report.table({"metrics": ["bbox/AP"], "start": {}, "variants": rows})
    assert "5 (×2.50)" in text and "3 (×1.50)" in text and "| 2 " in text


def test_results_of_others_are_merged_by_seed_and_row(tmp_path, capsys, measured, monkeypatch):
    monkeypatch.setattr(running, "_train", lambda t, _: finished(t.folder, 20.0 + t.seed, last=t.iterations - 1) or "")
    recipe = str(write_recipe(tmp_path, RECIPE))
    for seed in ("1", "2"):
        assert ablate.main(["--recipe", recipe, "--output", str(tmp_path / seed), "--seeds", seed]) == 0
    again = ["--recipe", recipe, "--output", str(tmp_path / "1"), "--seeds", "1", "--report-only", "--merge"]
    other = tmp_path / "2" / "ablation.json"
    results = json.loads(other.read_text())
    del results["variants"][2]
    results["variants"][1]["variant"] = "FPT elsewhere"
    other.write_text(json.dumps(results))
    capsys.readouterr()
    assert ablate.main([*again, str(other)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\*\*FPN\*\* +\| 21\.5 \(21\.0 to 22\.0\) \| +2", out)
    assert re.search(r"\*\*FPT elsewhere\*\* +\| 22\.0 +\| +1", out)
    results["variants"][0]["settings"] = "others"
    other.write_text(json.dumps(results))
    for file, message in (
        (other, "FPN was trained with other settings"),
        (tmp_path / "1" / "ablation.json", "FPN has seed 1, which is here too"),
        (tmp_path / "recipe.yaml", "recipe.yaml cannot be read"),
        (tmp_path / "1" / "costs.json", "costs.json is not the ablation.json of an ablation"),
    ):
        with pytest.raises(SystemExit, match=message):
            ablate.main([*again, str(file)])


def test_costs_that_cannot_be_read_are_named(tmp_path, untrained):
    (tmp_path / "costs.json").write_text('{"a')
    with pytest.raises(SystemExit, match="costs.json is not valid JSON: remove it"):
        ablate.main([*words(FPN), "--output", str(tmp_path), *OPTS])


def test_nothing_to_report(tmp_path, untrained, measured):
    command = ["--recipe", str(write_recipe(tmp_path, RECIPE)), "--output", str(tmp_path / "out"), "--report-only"]
    with pytest.raises(SystemExit, match="--report-only: the steps of FPN, FPT's cost, FPT have not been measured"):
        ablate.main(command)
    write_recipe(tmp_path, RECIPE[: RECIPE.index('  "FPN, FPT')])
    with pytest.raises(SystemExit, match="--report-only: no training of .*out is finished"):
        ablate.main(command)


def test_progress_is_told_without_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "FIRST", 0.05)
    monkeypatch.setattr(running, "PERIOD", 0.05)

    def train(training, _):
        training.folder.mkdir(parents=True)
        record = {"iteration": 3, "eta_seconds": 90.0, "total_loss": 1.0}
        (training.folder / "metrics.json").write_text(json.dumps(record) + '\n{"iterat')  # another is being written
        time.sleep(0.3)
        shutil.rmtree(training.folder)
        finished(training.folder, 20.0)
        return ""

    monkeypatch.setattr(running, "_train", train)
    assert ablate.main([*words(("FPT",), seeds=(1, 2)), "--output", str(tmp_path), *OPTS]) == 0
    out = capsys.readouterr().out
    assert re.search(r"running: FPT, seed 1: iteration 4 of 10, 2 min left; all: about \d+ s left\n", out)
    assert re.search(r"\[1 of 2\] FPT, seed 1: bbox/AP 20\.00; 0 s; all: about \d+ s left\n", out)
    assert re.search(r"\[2 of 2\] FPT, seed 2: bbox/AP 20\.00; 0 s\n", out)


def test_a_place_for_each_core_or_gpu(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setattr(running, "_cores", lambda: 3)
    monkeypatch.setattr(running, "_gpus", lambda: ["4", "6"])
    alone, one = {"OMP_WAIT_POLICY": "PASSIVE"}, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    assert running.environments(None, "cpu") == [one] * 3
    assert running.environments(1, "cpu") == [alone]
    on = [one | {"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("4", "6")]
    assert running.environments(None, "cuda") == on
    assert running.environments(3, "cuda:0") == [*on, on[0]]
    monkeypatch.setattr(running, "_gpus", lambda: [])
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert running.environments(2, "cuda") == [one | {"OMP_WAIT_POLICY": "ACTIVE"}] * 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--variant", "A B", "--variant", "A_B", "--config-file", CONFIG], "the names A B, A_B must differ"),
        (["--variant", "start", "--with-start", "--config-file", CONFIG], "the names start, start must differ"),
        (["--variant", "A"], "A names no config file: add one to it, or --config-file"),
        (["--variant", "A", "MODEL.NO_SUCH_KEY", "1", "--config-file", CONFIG], "MODEL.NO_SUCH_KEY"),
        (["--variant", "A", "nowhere.yaml"], "nowhere.yaml"),
        (["--variant", "A", "lazy.py"], "lazy.py is a lazy config, which cannot be compared here"),
        (["--variant", "A", "--config-file", "lazy.py"], "lazy.py is a lazy config"),
        (["--variant", "A", "--config-file", CONFIG, "--seeds", "1", "1"], "--seeds 1 1: give each seed once"),
        (["--variant", "A", "--config-file", CONFIG, "--baseline", "B"], "baseline names B, which is not a variant"),
        (["--variant", "A", "--config-file", CONFIG, "--jobs", "0"], "--jobs: '0' is not a whole number above 0"),
        (["--variant", "A", "--config-file", CONFIG, "--opts", "MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu'"),
        (["--recipe", "nowhere.yaml"], "The recipe nowhere.yaml cannot be read"),
        (["--recipe", "a.yaml", "--variant", "A"], "not allowed with argument"),
        ([], "one of the arguments --recipe --variant is required"),
    ],
)
def test_what_cannot_be_planned_is_said_before_training(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_status:
        ablate.main(["--output", str(tmp_path), *arguments])
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err


def test_a_recipe_from_end_to_end(tmp_path, monkeypatch, capfd):
    write_shapes(tmp_path / "datasets" / "fpt_shapes", num_train=4, num_val=2, image_size=(64, 64))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    small = "{MIN_SIZE_TRAIN: [64], MIN_SIZE_TEST: 64, MAX_SIZE_TRAIN: 96, MAX_SIZE_TEST: 96}"
    text = f"""
    config: {CONFIG}
    keys: {{INPUT: {small}, SOLVER: {{IMS_PER_BATCH: 1, MAX_ITER: 2}}, MODEL.ROI_HEADS.SCORE_THRESH_TEST: 0.0}}
    metrics: [bbox/AP]
    baseline: FPT
    variants:
      FPT: {{keys: {{MODEL.FPT.BRANCHES: [st_conv, gt, rt]}}}}
      FPN: {{keys: {{MODEL.FPT.BRANCHES: []}}, equal_cost_to: FPT}}
    cost: {{steps: 1, rounds: 1}}
    """
    out = tmp_path / "out"
    command = ["--recipe", str(write_recipe(tmp_path, text)), "--output", str(out)]
    assert ablate.main([*command, "--jobs", "2"]) == 0
    fpt, fpn = json.loads((out / "ablation.json").read_text())["variants"]
    assert fpn["params_m"] < fpt["params_m"]
    assert fpn["iterations"] == round(2 * fpt["step_seconds"] / fpn["step_seconds"])
    assert fpn["curves"]["bbox/AP"]["1"][-1][0] == fpn["iterations"] and (out / "ablation.png").exists()
    assert "[2 of 2] " in capfd.readouterr().out
    monkeypatch.setattr(running, "_train", lambda training, _: pytest.fail(f"{training} was trained again"))
    assert ablate.main(command) == 0
