"""The table and picture of tools/ablate.py from trainings that are there, and what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "configs" / "quick_schedules" / "faster_rcnn_R_18_FPT_quickstart.yaml")
OPTS = ["--opts", "SOLVER.MAX_ITER", "10"]


@pytest.fixture(scope="module")
def ablate():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import ablate
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return ablate


def finished(folder, value, last=9):
    folder.mkdir(parents=True)
    records = [{"iteration": 4, "bbox/AP": value / 2}, {"iteration": last, "bbox/AP": value, "time": 0.5}]
    (folder / "metrics.json").write_text("\n".join(json.dumps(record) for record in records))


def test_finished_trainings_are_compared_and_not_repeated(ablate, tmp_path, capsys, monkeypatch):
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
    assert "4 trainings, 4 of them finished before" in out
    assert "25.0 (20.0 to 30.0)" in out and "40.5 (40.0 to 41.0)" in out
    fpn, fpt = json.loads((tmp_path / "ablation.json").read_text())
    assert fpn["metrics"] == {"bbox/AP": [20.0, 30.0]} and fpn["gflops"] < fpt["gflops"]
    with Image.open(tmp_path / "ablation.png") as image:
        assert image.size[0] > 1000
    with pytest.raises(SystemExit, match="FPN has no metric segm/AP; it has bbox/AP"):
        ablate.main([*command[:-3], "--metric", "bbox/AP", "segm/AP", *OPTS])


def test_the_start_is_evaluated_once_and_shown(ablate, tmp_path, capsys, monkeypatch):
    commands = []

    def evaluate(command, **_):
        commands.append(command)
        folder = Path(command[-1])
        folder.mkdir()
        (folder / "evaluation.json").write_text(json.dumps({"bbox": {"AP": 12.34}}))
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


def test_a_start_that_cannot_be_evaluated_ends_it(ablate, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate.subprocess, "run", lambda *a, **_: subprocess.CompletedProcess(a, 2, "", "no weights"))
    monkeypatch.setattr(ablate, "_train", lambda training, _: pytest.fail(f"{training} was trained"))
    with pytest.raises(SystemExit, match="evaluation of MODEL.WEIGHTS failed:\nno weights"):
        ablate.main(["--config-file", CONFIG, "--variant", "A", "--with-start", "--output", str(tmp_path), *OPTS])


def test_an_unfinished_training_is_trained_and_its_failure_shown(ablate, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(ablate, "_train", lambda training, _: trained.append(training.variant) or "no such data set")
    finished(tmp_path / "half" / "seed_1", 1.0, last=5)
    with pytest.raises(SystemExit, match="half, seed 1 failed:\nno such data set"):
        ablate.main(["--config-file", CONFIG, "--variant", "half", "--output", str(tmp_path), *OPTS])
    assert trained == ["half"]


def test_a_folder_of_other_settings_is_refused(ablate, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablate, "_train", lambda *_: "stopped")
    command = ["--config-file", CONFIG, "--variant", "FPT", "--output", str(tmp_path)]
    for _ in range(2):  # the same settings again are welcome
        with pytest.raises(SystemExit, match="stopped"):
            ablate.main([*command, *OPTS])
    with pytest.raises(SystemExit):
        ablate.main([*command, "--opts", "SOLVER.MAX_ITER", "20"])
    assert "seed_1 was trained with other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--variant", "A B", "--variant", "A_B", "--config-file", CONFIG], "the names A B, A_B must differ"),
        (["--variant", "start", "--with-start", "--config-file", CONFIG], "the names start, start must differ"),
        (["--variant", "A"], "A names no config file: add one to it, or --config-file"),
        (["--variant", "A", "MODEL.NO_SUCH_KEY", "1", "--config-file", CONFIG], "MODEL.NO_SUCH_KEY"),
        (["--variant", "A", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_what_cannot_be_planned_is_said_before_training(ablate, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_status:
        ablate.main([*arguments, "--output", str(tmp_path)])
    assert exit_status.value.code == 2
    assert message in capsys.readouterr().err
