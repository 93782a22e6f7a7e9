"""The table and picture of tools/ablate.py from trainings that are there, and what it refuses."""

import json
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import ablate
import model_costs
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quick_schedules" / "faster_rcnn_R_18_FPT_quickstart.yaml")
OPTS = ["--opts", "SOLVER.MAX_ITER", "10"]


def finished(folder, value, last=9, time=0.5):
    folder.mkdir(parents=True)
    end = {"bbox/AP": value, "bbox/AP-star": value, "fast_rcnn/cls_accuracy": 1.0, "time": time}
    records = [{"iteration": 4, "bbox/AP": value / 2}, {"iteration": last, **end}]
    (folder / "metrics.json").write_text("\n".join(json.dumps(record) for record in records))


def test_finished_trainings_are_compared_and_not_repeated(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablate, "_train", lambda training, _: pytest.fail(f"{training} was trained again"))
    for variant, values in (("FPN", (20.0, 30.0)), ("FPT_64", (40.0, 41.0))):
        for seed, value in enumerate(values, start=1):
            finished(tmp_path / variant / f"seed_{seed}", value)
    variants = [
        "--variant",
        "FPN",
        "MODEL.FPT.BRANCHES",
        "[]",
        "--variant",
        "FPT 64",
        "MODEL.FPT.BRANCH_CHANNELS",
        "64",
    ]
    command = ["--config-file", CONFIG, *variants, "--seeds", "1", "2", "--output", str(tmp_path), *OPTS]
    assert ablate.main(command) == 0
    out = capsys.readouterr().out
    assert "Trainings: 4, of them finished before: 4" in out
    assert "25.0 (20.0 to 30.0)" in out and "40.5 (40.0 to 41.0)" in out
    fpn, fpt = json.loads((tmp_path / "ablation.json").read_text())
    assert fpn["metrics"] == {"bbox/AP": [20.0, 30.0]} and fpn["gflops"] < fpt["gflops"]
    with Image.open(tmp_path / "ablation.png") as image:
        assert image.size[0] > 1000
    with pytest.raises(SystemExit, match="FPN has no metric segm/AP; it has bbox/AP$"):
        ablate.main([*command[:-3], "--metric", "bbox/AP", "segm/AP", *OPTS])


def test_a_metric_that_is_not_there_ends_it_after_the_first_training(tmp_path, monkeypatch):
    trained = []

    def train(training, _):
        trained.append(training.seed)
        finished(training.folder, 20.0)
        return ""

    monkeypatch.setattr(ablate, "_train", train)
    command = ["--config-file", CONFIG, "--variant", "FPT", "--seeds", "1", "2", "3", "--metric", "bbox/ap"]
    with pytest.raises(SystemExit, match="FPT has no metric bbox/ap; it has bbox/AP$"):
        ablate.main([*command, "--output", str(tmp_path), *OPTS])
    assert trained == [1]


def test_ctrl_c_begins_no_further_training(tmp_path, monkeypatch, capsys):
    trained = []

    def train(training, _):
        trained.append(training.seed)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.5)  # as a training that saves a checkpoint does
        return "interrupted"

    monkeypatch.setattr(ablate, "_train", train)
    command = ["--config-file", CONFIG, "--variant", "FPT", "--seeds", "1", "2", "3", "--output", str(tmp_path), *OPTS]
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
    assert ablate.main(["--config-file", CONFIG, "--variant", "FPT", "--output", str(tmp_path), *OPTS]) == 0
    assert "FPT: no cost, as its head asks for detections" in capsys.readouterr().out
    (record,) = json.loads((tmp_path / "ablation.json").read_text())
    assert record["gflops"] is record["params_m"] is record["seconds_per_iteration"] is None
    assert (tmp_path / "ablation.png").exists()


def test_the_start_is_evaluated_once_and_shown(tmp_path, capsys, monkeypatch):
    commands = []

    def evaluate(command, **_):
        commands.append(command)
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps({"bbox": {"AP": 12.34, "APl": None}}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(ablate.subprocess, "run", evaluate)
    finished(tmp_path / "FPT" / "seed_1", 20.0)
    command = ["--config-file", CONFIG, "--variant", "FPT", "--with-start", "--output", str(tmp_path), *OPTS]
    for _ in range(2):
        assert ablate.main(command) == 0
        assert re.search(r"\| start \| +12\.3", capsys.readouterr().out)
    (words,) = commands
    assert "--eval-only" in words and words[-2:] == ["OUTPUT_DIR", str(tmp_path / "start")]
    assert json.loads((tmp_path / "ablation.json").read_text())[0] == {
        "variant": "start",
        "metrics": {"bbox/AP": [12.34]},
    }
    shutil.rmtree(tmp_path / "FPT")
    with pytest.raises(SystemExit, match="start has no metric bbox/APl; it has bbox/AP$"):
        ablate.main([*command[:-3], "--metric", "bbox/APl", *OPTS])


def test_a_start_that_cannot_be_evaluated_ends_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ablate.subprocess, "run", lambda *a, **_: subprocess.CompletedProcess(a, 2, "", "no weights"))
    monkeypatch.setattr(ablate, "_train", lambda training, _: pytest.fail(f"{training} was trained"))
    with pytest.raises(SystemExit, match="evaluation of MODEL.WEIGHTS failed:\nno weights"):
        ablate.main(["--config-file", CONFIG, "--variant", "A", "--with-start", "--output", str(tmp_path), *OPTS])


def test_an_unfinished_training_is_trained_and_its_failure_shown(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(ablate, "_train", lambda training, _: trained.append(training.variant) or "no such data set")
    finished(tmp_path / "half" / "seed_1", 1.0, last=5)
    with pytest.raises(SystemExit, match="half, seed 1 failed:\nno such data set"):
        ablate.main(["--config-file", CONFIG, "--variant", "half", "--output", str(tmp_path), *OPTS])
    assert trained == ["half"]


def test_a_folder_of_other_settings_is_refused(tmp_path, monkeypatch):
    def train(training, _):
        training.folder.mkdir(parents=True, exist_ok=True)
        (training.folder / "config.yaml").write_text(training.config().dump())
        return "stopped"

    monkeypatch.setattr(ablate, "_train", train)
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
        (["--variant", "A", "--config-file", CONFIG, "--jobs", "0"], "--jobs: '0' is not a whole number above 0"),
    ],
)
def test_what_cannot_be_planned_is_said_before_training(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_status:
        ablate.main([*arguments, "--output", str(tmp_path)])
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
