"""tools/lazyconfig_train_net.py on the small data set: a training, going on with it, evaluating it, and mistakes."""

from __future__ import annotations

import ast
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from fpt_d2.config_values import flat
from fpt_d2.data import InstanceMapper
from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.engine import get_default_config, resumption
from fpt_d2.engine.lazy import read_lazy_config
from fpt_d2.engine.lazy_parts import build_train_loader
from fpt_d2.engine.lazy_words import ALIKE, TWINS, lazily
from fpt_d2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
FCOS = str(ROOT / "configs" / "quick_schedules" / "fcos_R_18_FPT_quickstart.py")
COCO = [f"dataloader.{split}.dataset.names=coco_2014_minival" for split in ("train", "test")] + ["model.num_classes=80"]
SAME = ["dataloader.test.dataset.names=lazy_train"]
NAMES = {split: f"lazy_{split}" for split in ("train", "val")}
# Key, value, and what is said of it.
OUT_OF_RANGE = (
    ("train.max_iter", "2.5", "2.5; allowed: a whole number"),
    ("train.max_iter", "-3", "-3; allowed: a positive number"),
    ("train.seed", "abc", "'abc'; allowed: a whole number"),
    ("train.log_period", "0", "0; allowed: a positive number"),
    ("train.eval_period", "-1", "-1; allowed: 0 or more"),
    ("train.checkpointer.period", "0", "0; allowed: a positive number"),
    ("train.checkpointer.max_to_keep", "0", "0; allowed: a positive number"),
    ("train.output_dir", "null", "None; allowed: text"),
    ("train.device", "3", "3; allowed: text"),
    ("train.amp", "3", "3; allowed: a section"),
    ("dataloader.train", "null", "None; allowed: a section"),
    ("dataloader.train.total_batch_size", "0", "0; allowed: a positive number"),
    ("dataloader.train.num_workers", "-1", "-1; allowed: 0 or more"),
    ("dataloader.test.num_workers", "-1", "-1; allowed: 0 or more"),
    ("dataloader.train.dataset.names", "[]", "[]; allowed: the name of a data set"),
    ("dataloader.evaluator.dataset_name", "nowhere", "'nowhere'; allowed: the name of one data set"),
    ("optimizer.lr", "-1", "-1.0; allowed: 0 or more"),
    ("optimizer.lr", "nan", "nan; allowed: finite numbers"),
    ("optimizer.momentum", "1.5", "1.5; allowed: from 0, below 1"),
    ("lr_multiplier.warmup_length", "1.2", "1.2; allowed: from 0 to 1"),
    ("model.num_classes", "-1", "-1; allowed: a positive number"),
    ("model._target_", "3", "3; allowed: a class or a function"),
    ("model._target_", "nowhere.Model", "'nowhere.Model', which cannot be imported"),
    ("optimizer._target_", "torch.optim.Nope", "'torch.optim.Nope', which cannot be imported"),
)
# What Detectron2, torch or hydra refuse.
REFUSED = {
    "model=null": "does not have model",
    "train=null": "does not have train",
    "model.backbone.transform.channels=0": "with model.backbone.transform.channels 0: channels is 0",
    "model.backbone.bottom_up.stages.depth=19": "with model.backbone.bottom_up.stages.depth 19",
    "model._target_=torch.nn.Linear": "model.backbone is no argument of Linear",
    "optimizer._target_=math.sin": "optimizer.lr is no argument of sin",
    "lr_multiplier._target_=builtins.dict": "lr_multiplier._target_ makes a dict; allowed: a ParamScheduler",
    "lr_multiplier.warmup_method=quadratic": "with lr_multiplier.warmup_method 'quadratic'",
    "lr_multiplier.scheduler.values=[1,-1,0]": "lr_multiplier is -1 after",
    "train.init_checkpoint=/": "There are no weights /: set train.init_checkpoint to another file",
    "train.max_iter=1,2": "gives train.max_iter several values",
    "train.max_iter==3": "'train.max_iter==3'",
    "train.max_iter.x=3": "there is no train.max_iter.x",
    "train.output_dir=${nowhere}": "Interpolation key 'nowhere' not found",
    "=3": "'=3' is not key=value",
}
# In the file itself, which the words of the command line do not mend.
IN_THE_FILE = {
    "train.ddp.odd = 1": "train.ddp.odd is not known",
    "del train.checkpointer['period']": "train.checkpointer does not have period",
    "del dataloader.train['mapper']": "dataloader.train does not have mapper, which build_detection_train_loader needs",
    "dataloader.train.sampler = 'x'": "dataloader.train.sampler is 'x'",
    "dataloader.train.prefetch_factor = 2": "What reads the training data (dataloader.train) cannot be built",
    "dataloader.test.persistent_workers = True": "dataloader.test.persistent_workers is no argument of",
    "dataloader.train.mapper.augmentations[0].sample_style = 'odd'": "dataloader.train.mapper.augmentations[0]",
    "model.backbone.odd = 3": "model.backbone.odd is no argument of FPT",
    "model.num_classes = '???'": "has no value",
    "optimizer = None": "does not have optimizer",
    "lr_multiplier = dict(a=1)": "lr_multiplier has no _target_",
    "x = ": "invalid syntax in line",
}
# What is missing has one meaning, or the loader takes it.
FINE_IN_THE_FILE = (
    "del train['amp'], train['ddp'], train['checkpointer'], train['log_period']",
    "del train['max_iter'], train['seed']",
    "dataloader.train.update(num_workers=1, persistent_workers=True, prefetch_factor=3)",
    "optimizer.update(lr=1)",
)


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
        *(([f"{key}={value}"], f"{key} is {said}") for key, value, said in OUT_OF_RANGE),
        *(([pair], sentence) for pair, sentence in REFUSED.items()),
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


@pytest.fixture
def with_more(out: Path, tmp_path: Path) -> Callable[[str], list[str]]:
    """The words of a check of the config with a line more, which lies beside a copy of what it imports."""
    path = tmp_path / "configs" / "quick_schedules" / "fcos.py"
    shutil.copytree(ROOT / "configs" / "common", tmp_path / "configs" / "common")

    def write(line: str) -> list[str]:
        path.parent.mkdir()
        path.write_text(f"{Path(FCOS).read_text()}\n{line}\n")
        return ["--config-file", str(path), "--check", *words(out)[2:]]

    return write


@pytest.mark.parametrize(("line", "sentence"), IN_THE_FILE.items())
def test_a_mistake_in_the_file_is_one_sentence(line: str, sentence: str, with_more, tool: ModuleType, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        tool.main(with_more(line))
    error = capsys.readouterr().err
    assert end.value.code == 2 and sentence in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("line", FINE_IN_THE_FILE)
def test_what_has_one_meaning_is_read(line: str, with_more, tool: ModuleType, out: Path, capsys) -> None:
    tool.main(with_more(line))
    assert "All checks passed" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("body", ["raise ValueError('a bug')", "self.conv = torch.nn.Conv2d(3, -1, 3)", "1 / 0"])
def test_a_bug_in_a_model_of_ones_own_keeps_its_traceback(body: str, with_more, tool: ModuleType) -> None:
    line = "import torch\nclass Own(torch.nn.Module):\n  def __init__(self, **parts):\n    super().__init__()\n    "
    with pytest.raises((ValueError, RuntimeError, ZeroDivisionError)) as caught:
        tool.main(with_more(f"{line}{body}\nmodel._target_ = Own"))
    assert not isinstance(caught.value, UserError)


def test_resumption_of_another_model_or_optimizer(tool: ModuleType, out: Path, capsys) -> None:
    tool.main(words(out, "train.max_iter=1", "train.eval_period=0"))
    for pair, sentence in [
        ("model.head.conv_dims=[32,32]", "--resume cannot go on: the checkpoint in"),
        ("optimizer._target_=torch.optim.AdamW", "momentum is no argument of AdamW"),
        ("optimizer.params.weight_decay_norm=null", "parameter groups"),
    ]:
        arguments = words(out, pair)
        capsys.readouterr()
        with pytest.raises(SystemExit):
            tool.main([*arguments[:2], "--resume", "--check", *arguments[2:]])
        error = capsys.readouterr().err
        assert sentence in error and "SOLVER" not in error and "MODEL." not in error


def test_a_disk_without_room(tool: ModuleType, out: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(resumption.os, "statvfs", lambda folder: SimpleNamespace(f_bavail=1, f_frsize=4096))
    with pytest.raises(SystemExit):
        tool.main(words(out))
    assert f"train.output_dir {out} has room for 0.0 MiB" in capsys.readouterr().err


def test_workers_take_the_options_of_pytorchs_loader(tool: ModuleType, out: Path) -> None:
    options = ["num_workers=1", "persistent_workers=True", "prefetch_factor=3"]
    cfg = read_lazy_config(FCOS, words(out)[2:])
    for option in options:
        name, _, value = option.partition("=")
        cfg.dataloader.train[name] = ast.literal_eval(value)
    loader = build_train_loader(cfg)
    assert len(next(iter(loader))) == 2


@pytest.mark.parametrize(
    ("yaml", "lazy"),
    [
        ("set MODEL.WEIGHTS to another file", "set train.init_checkpoint to another file"),
        (
            "a lower SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True or SOLVER.AMP.ENABLED False",
            "a lower optimizer.lr or train.amp.enabled=False",
        ),
        ("Correct the file; DATASETS.CHECK False skips this check", "Correct the file"),
        ("no 'SOLVER.BASE_LR', no SOLVER.BASE_LR_END", "no 'SOLVER.BASE_LR', no SOLVER.BASE_LR_END"),
        ("OUTPUT_DIR 2024/x is full", "train.output_dir 2024/x is full"),
    ],
)
def test_sentences_are_in_the_words_of_lazy_configs(yaml: str, lazy: str) -> None:
    assert lazily(yaml) == lazy


def test_keys_that_lazy_configs_share_are_there() -> None:
    assert {*TWINS.values(), *ALIKE.values()} <= flat(get_default_config()).keys()


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
