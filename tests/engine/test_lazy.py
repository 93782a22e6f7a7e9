"""tools/lazyconfig_train_net.py on the small data set: a training, going on with it, evaluating it, and mistakes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fpt_d2.data import InstanceMapper
from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.engine.lazy import read_lazy_config

ROOT = Path(__file__).resolve().parents[2]
FCOS = str(ROOT / "configs" / "quick_schedules" / "fcos_R_18_FPT_quickstart.py")
COCO = [f"dataloader.{split}.dataset.names=coco_2014_minival" for split in ("train", "test")] + ["model.num_classes=80"]
SAME = ["dataloader.test.dataset.names=lazy_train"]
NAMES = {split: f"lazy_{split}" for split in ("train", "val")}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = ROOT / "tools" / "lazyconfig_train_net.py"
    spec = importlib.util.spec_from_file_location("lazyconfig_train_net", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", autouse=True)
def data_sets(shapes: Path):
    for split, name in NAMES.items():
        json_file = str(shapes / "annotations" / f"instances_{split}.json")
        register_coco_instances(name, {"thing_classes": list(CATEGORIES)}, json_file, str(shapes / split))
    yield
    for name in NAMES.values():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def words(out: Path, *pairs: str) -> list[str]:
    small = ["dataloader.train.total_batch_size=2", "train.max_iter=2", "model.test_score_thresh=0.0"]
    data = [f"dataloader.train.dataset.names={NAMES['train']}", f"dataloader.test.dataset.names={NAMES['val']}"]
    return ["--config-file", FCOS, *small, *data, f"train.output_dir={out}", *pairs]


def test_a_training_going_on_and_evaluating_it(tool: ModuleType, out: Path, capsys: pytest.CaptureFixture) -> None:
    tool.main(words(out))
    saved = torch.load(out / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1 and (out / "last_checkpoint").read_text() == "model_final.pth"
    assert any("fpt.gt" in name for name in saved["model"])
    metrics = {key for line in (out / "metrics.json").read_text().splitlines() for key in json.loads(line)}
    assert {"loss_fcos_cls", "bbox/AP"} <= metrics

    tool.main([*words(out, "train.max_iter=3")[:2], "--resume", *words(out, "train.max_iter=3")[2:]])
    again = torch.load(out / "model_final.pth", weights_only=True)
    assert again["iteration"] == 2
    moved = [name for name, value in again["model"].items() if not torch.equal(value, saved["model"][name])]
    assert any(".fuse." in name for name in moved)

    weights = f"train.init_checkpoint={out / 'model_final.pth'}"
    arguments = words(out / "evaluated", weights)
    capsys.readouterr()
    tool.main([*arguments[:2], "--eval-only", *arguments[2:]])
    assert not list((out / "evaluated").glob("model_*"))


def test_going_on_gives_the_losses_of_a_training_that_was_not_stopped(tool: ModuleType, out: Path) -> None:
    arguments = words(
        out, "train.max_iter=4", "train.checkpointer.period=2", "train.log_period=1", "train.eval_period=0"
    )
    tool.main(arguments)
    whole = losses(out)
    (out / "last_checkpoint").write_text("model_0000001.pth")
    tool.main([*arguments[:2], "--resume", *arguments[2:]])
    assert sorted(whole) == [0, 1, 2, 3]
    assert losses(out) == {iteration: pytest.approx(values, abs=1e-6) for iteration, values in whole.items()}


def losses(out: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return {
        line["iteration"]: {name: value for name, value in line.items() if "loss" in name}
        for line in lines
        if "total_loss" in line
    }


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["train.max_itr=2"], "there is no train.max_itr in the config"),
        (["model.backbone.transform.chanels=2"], "there is no model.backbone.transform.chanels"),
        (["SOLVER.MAX_ITER", "2"], "'SOLVER.MAX_ITER' is not key=value"),
        (["train.max_iter=[1,"], "'train.max_iter=[1,'"),
        (["train.device=cuda"], "add train.device=cpu"),
        (["train.device=gpu"], "train.device is 'gpu', which PyTorch does not know"),
        ([*SAME, "model.num_classes=3"], "has 6 categories, but the model 3: set model.num_classes=6"),
        (["train.amp.enabled=True"], "needs a GPU"),
        (["train.init_checkpoint=nowhere.pth"], "There are no weights nowhere.pth"),
        (["dataloader.train.dataset.names=lazy_trian"], "Did you mean lazy_train"),
        (["dataloader.train.dataset.names=qqqq"], "Register your own in the config"),
        (COCO, "'coco_2014_minival' cannot be read"),
        (["--eval-only"], "--eval-only needs a trained model"),
        ([f"train.init_checkpoint={__file__}", "train.weights_allow_pickle=False"], "train.weights_allow_pickle is F"),
    ],
)
def test_a_mistake_is_one_sentence(pairs, sentence, tool: ModuleType, out: Path, capsys) -> None:
    if sentence.endswith("cpu") and torch.cuda.is_available():
        pytest.skip("has a GPU")
    arguments = words(out, *(pair for pair in pairs if not pair.startswith("--")))
    with pytest.raises(SystemExit) as end:
        tool.main([*arguments[:2], *(pair for pair in pairs if pair.startswith("--")), *arguments[2:]])
    error = capsys.readouterr().err
    assert end.value.code == 2 and sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not list(out.rglob("*"))


@pytest.mark.parametrize(
    ("file", "sentence"),
    [("configs/COCO-Detection/fcos_R50_FPT_1x.py", "There is no lazy config"), (FCOS[:-2] + "yaml", "There is no")],
)
def test_a_missing_config_file(file: str, sentence: str, tool: ModuleType, capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--config-file", file])
    assert sentence in capsys.readouterr().err


def test_what_is_not_a_lazy_config(tool: ModuleType, tmp_path: Path, capsys) -> None:
    (tmp_path / "half.py").write_text("model = dict()\ntrain = dict()\n")
    for file, sentence in [
        (tmp_path / "half.py", "does not have dataloader, optimizer, lr_multiplier"),
        (ROOT / "configs" / "Base-RCNN-FPT.yaml", "There is no lazy config (a .py file)"),
    ]:
        with pytest.raises(SystemExit):
            tool.main(["--config-file", str(file)])
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_is_not_begun_where_another_one_is(processes: int, tool: ModuleType, out: Path, capsys) -> None:
    out.mkdir()
    (out / "last_checkpoint").write_text("precious")
    with pytest.raises(SystemExit):
        tool.main([f"--num-gpus={processes}", *words(out)])
    error = capsys.readouterr().err
    assert f"train.output_dir {out} holds a training already" in error
    assert len(error.strip().splitlines()) == 1
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("last_checkpoint", "precious")]


def test_an_evaluation_needs_areas(tool: ModuleType, shapes: Path, tmp_path: Path, out: Path, capsys) -> None:
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    del content["annotations"][0]["area"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    register_coco_instances("lazy_no_area", {}, str(tmp_path / "val.json"), str(shapes / "val"))
    try:
        with pytest.raises(SystemExit):
            tool.main(words(out, "dataloader.test.dataset.names=lazy_no_area"))
    finally:
        DatasetCatalog.remove("lazy_no_area")
        MetadataCatalog.remove("lazy_no_area")
    assert "no area, which the evaluation needs" in capsys.readouterr().err


def test_images_are_read_as_in_other_trainings() -> None:
    cfg = read_lazy_config(FCOS)
    assert cfg.dataloader.train.mapper._target_ is cfg.dataloader.test.mapper._target_ is InstanceMapper
