"""What a user gets wrong ends train_net.py with one sentence and exit code 2; what is right gets through."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from fpt_d2 import config_file
from fpt_d2.engine import ConfigError, Trainer, get_default_config, read_config, setup

NO_GPU = not torch.cuda.is_available()
RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.IN_FEATURES", "['p2','p3','p4','p5','p6']"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["SOLVER.BASE_LRR", 0.1], "did you mean SOLVER.BASE_LR"),
        (["MODEL.FTP.BRANCHES", "()"], "did you mean MODEL.FPT.BRANCHES"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER is 'many'; allowed: a whole number"),
        (["SOLVER.MAX_ITER"], "pairs"),
        (["SOLVER", 3], "SOLVER is a section"),
        (["MODEL.FPT.GT_NUM_PARTS", 3], "MODEL.FPT.GT_NUM_PARTS is 3"),
        (["MODEL.PLUGINS.NON_LOCAL", "['res9']"], "MODEL.PLUGINS.NON_LOCAL is 'res9'; allowed: places in res2"),
        (["MODEL.FPN.IN_FEATURES", "['res9']"], "MODEL.FPN.IN_FEATURES is ['res9']"),
        (["MODEL.RESNETS.DEPTH", 51], "MODEL.RESNETS.DEPTH is 51; allowed: 18, 34, 50"),
        (["MODEL.RESNETS.RES2_OUT_CHANNELS", 256], "Must set MODEL.RESNETS.RES2_OUT_CHANNELS = 64 for R18/R34"),
        (["MODEL.TRUNK.BUILDER", "build_vgg"], "MODEL.TRUNK.BUILDER is 'build_vgg'"),
        (["MODEL.TRUNK.BUILDER", "build_resnet_bifpn_backbone"], "allowed: a backbone without a neck"),
        (["MODEL.FPN.OUT_CHANNELS", 0], "MODEL.FPN.OUT_CHANNELS is 0; allowed: a positive number"),
        (["MODEL.FPT.BRANCH_CHANNELS", None], "MODEL.FPT.BRANCH_CHANNELS is None; allowed: a whole number"),
        (["MODEL.FPN.IN_FEATURES", "[['res2']]"], "MODEL.FPN.IN_FEATURES is [['res2']]; allowed: names"),
        (["MODEL.UFP.KERNELS", "['x']"], "MODEL.UFP.KERNELS is ['x']; allowed: numbers"),
        (["--num-gpus=2", "MODEL.FPT.NORM", "SyncBN"], "SyncBN trains in several processes on GPUs only"),
        (["MODEL.BACKBONE.NAME", "build_fpt"], "MODEL.BACKBONE.NAME is 'build_fpt', which is not registered"),
        (["MODEL.META_ARCHITECTURE", "RCNN"], "MODEL.META_ARCHITECTURE is 'RCNN', which is not registered"),
        (["MODEL.ROI_HEADS.NAME", "X"], "MODEL.ROI_HEADS.NAME is 'X', which is not registered"),
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "The model (RetinaNet, build_resnet_fpt_backbone) cannot be built"),
        (["MODEL.DEVICE", "gpu"], "MODEL.DEVICE is 'gpu', which PyTorch does not know"),
        (["MODEL.FPT.BRANCHES", "[['st']]"], "MODEL.FPT.BRANCHES is [['st']]"),
        (["MODEL.FPT.BRANCHES", "['st','st']"], "MODEL.FPT.BRANCHES is ['st', 'st']"),
        (["INPUT.MASK_FORMAT", "polygonn"], "INPUT.MASK_FORMAT is 'polygonn'"),
        (["SOLVER.IMS_PER_BATCH", 0], "SOLVER.IMS_PER_BATCH is 0"),
        (["SOLVER.REFERENCE_WORLD_SIZE", 3], "among the 3 processes of SOLVER.REFERENCE_WORLD_SIZE"),
        (["MODEL.WEIGHTS", "nowhere/model.pth"], "There are no weights nowhere/model.pth"),
        (["--eval-only"], "--eval-only needs a trained model"),
        (["MODEL.WEIGHTS", __file__, "MODEL.WEIGHTS_ALLOW_PICKLE", False], "MODEL.WEIGHTS_ALLOW_PICKLE is False"),
        (["SOLVER.AMP.ENABLED", True], "SOLVER.AMP.ENABLED needs a GPU"),
        (["--num-gpus=3"], "SOLVER.IMS_PER_BATCH 2 cannot be divided among 3"),
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["DATASETS.TRAIN", "('tiny_trian',)"], "tiny_train"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", 80, "DATASETS.TEST", "()"], "MODEL.ROI_HEADS.NUM_CLASSES 6"),
        (["TEST.BEST_METRIC", "bbox/AP"], "TEST.EVAL_PERIOD"),
        (
            ["TEST.BEST_METRIC", "bbox/ap", "TEST.EVAL_PERIOD", 1],
            "'bbox/ap', which is not evaluated; allowed: bbox/AP,",
        ),
        (["TEST.BEST_METRIC", "keypoints/AP", "TEST.EVAL_PERIOD", 1], "TEST.BEST_METRIC is 'keypoints/AP'"),
        (["TEST.COCO_EVAL", "pycoco"], "TEST.COCO_EVAL is 'pycoco'; allowed: 'detectron2', 'pycocotools',"),
        (["TEST.PATIENCE", 3], "TEST.BEST_METRIC"),
        (["TEST.LOSS", True, "DATASETS.TEST", "()"], "DATASETS.TEST"),
        (["TEST.AUG.ENABLED", True, *RETINANET], "TEST.AUG.ENABLED"),
        pytest.param(
            ["MODEL.DEVICE", "cuda"], "MODEL.DEVICE cpu", marks=pytest.mark.skipif(not NO_GPU, reason="has a GPU")
        ),
    ],
)
def test_a_mistake_is_one_sentence(words, sentence, command_line, train_net, capsys, out: Path) -> None:
    assert train_net(command_line(*words)) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not list(out.rglob("*"))


def test_weights_that_cannot_be_fetched(command_line, train_net, capsys) -> None:
    address = "http://127.0.0.1:1/model.pkl"
    assert train_net(command_line("MODEL.WEIGHTS", address)) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"train_net.py: The weights {address} cannot be fetched")


def test_a_flag_behind_the_pairs_is_explained(command_line, train_net, capsys) -> None:
    assert train_net([*command_line(), "--resume"]) == 2
    assert "options such as --resume go before" in capsys.readouterr().err


@pytest.mark.parametrize("config_file", ["confgs/x.yaml", "configs/COCO-Detection/faster_rcnn_R50_FPT_1x.yaml", ""])
def test_a_missing_config_file(config_file: str, train_net, capsys) -> None:
    assert train_net(["--config-file", config_file]) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1
    assert config_file in error
    if "R50" in config_file:
        assert "configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml" in error


def test_a_broken_config_file(tmp_path: Path, train_net, capsys) -> None:
    path = tmp_path / "broken.yaml"
    for text, sentence in [
        ("MODEL: [", "not valid YAML"),
        ("_BASE_: gone.yaml", "gone.yaml"),
        ("_BASE_: broken.yaml", "cannot be read"),
        ("MODELL: {}", "did you mean MODEL"),
        ("", "does not consist of keys and values"),
        ("[1, 2]", "does not consist of keys and values"),
        ("SOLVER: {MAX_ITER: many}", "SOLVER.MAX_ITER is 'many'; allowed: a whole number"),
        ("SOLVER: {MAX_ITER: {A: 1}}", "there is no key SOLVER.MAX_ITER.A"),
        ("SOLVER: 3", "SOLVER is a section"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []", "tag:yaml.org,2002:python/object/apply:os.getcwd"),
    ]:
        path.write_text(text)
        assert train_net(["--config-file", str(path)]) == 2
        error = capsys.readouterr().err
        assert sentence in error and str(path) in error
        assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("in_file", [False, True])
def test_values_of_another_type_with_one_meaning_are_read(in_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("SOLVER: {BASE_LR: 1, MAX_ITER: 10.0, GAMMA: 1e-1}\nOUTPUT_DIR: '2024'" if in_file else "SEED: 1")
    words = ["SOLVER.BASE_LR", "1", "SOLVER.MAX_ITER", "1e1", "SOLVER.GAMMA", "0.1", "OUTPUT_DIR", "2024"]
    cfg = read_config(str(path), [] if in_file else words)
    values = [cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.GAMMA, cfg.OUTPUT_DIR]
    assert values == [1.0, 10, 0.1, "2024"]
    assert [type(value) for value in values] == [float, int, float, str]


def test_the_keys_of_a_base_are_checked_too(tmp_path: Path, train_net, capsys) -> None:
    (tmp_path / "base.yaml").write_text("MODEL: {FPT: {BRANCHS: []}}")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nMODEL: {DEVICE: cpu}")
    assert train_net(["--config-file", str(tmp_path / "config.yaml")]) == 2
    assert "there is no key MODEL.FPT.BRANCHS: did you mean MODEL.FPT.BRANCHES" in capsys.readouterr().err


def test_a_renamed_key_is_answered_with_its_new_name(tmp_path: Path, monkeypatch) -> None:
    def renamed():
        cfg = get_default_config()
        cfg.register_renamed_key("MODEL.FPT.OLD", "MODEL.FPT.BRANCHES")
        return cfg

    monkeypatch.setattr(config_file, "get_default_config", renamed)
    path = tmp_path / "config.yaml"
    for text, opts in [("MODEL: {FPT: {OLD: 1}}", []), ("VERSION: 2", ["MODEL.FPT.OLD", "1"])]:
        path.write_text(text)
        with pytest.raises(ConfigError, match="MODEL.FPT.OLD was renamed to MODEL.FPT.BRANCHES"):
            read_config(str(path), opts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_cannot_be_written_to(out: Path, command_line, train_net, capsys) -> None:
    out.mkdir(mode=0o500)
    assert train_net(command_line()) == 2
    assert f"OUTPUT_DIR {out} cannot be written to" in capsys.readouterr().err


def test_an_unknown_evaluator_is_found_at_once(command_line, train_net, capsys) -> None:
    if "odd_val" not in DatasetCatalog:
        DatasetCatalog.register("odd_val", list)
        MetadataCatalog.get("odd_val").set(evaluator_type="odd")
    assert train_net(command_line("DATASETS.TEST", "('odd_val',)")) == 2
    error = capsys.readouterr().err
    assert "'odd_val'" in error and "'odd'" in error and "coco_panoptic_seg" in error


@pytest.mark.parametrize("name", ["last_checkpoint", "model_best.pth", "model_0000009.pth"])
def test_a_training_is_not_begun_where_another_one_is(name: str, out: Path, command_line, train_net, capsys) -> None:
    out.mkdir()
    (out / name).write_text("precious")
    assert train_net(command_line()) == 2
    error = capsys.readouterr().err
    assert str(out) in error and "--resume" in error
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [(name, "precious")]


def test_a_checkpoint_that_is_gone(out: Path, command_line, train_net, capsys) -> None:
    out.mkdir()
    (out / "last_checkpoint").write_text("model_0000099.pth")
    assert train_net(command_line("--resume")) == 2
    assert "model_0000099.pth is gone" in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_made(out: Path, command_line, train_net, capsys) -> None:
    out.write_text("a file")
    assert train_net(command_line()) == 2
    assert f"OUTPUT_DIR {out}" in capsys.readouterr().err
    out.unlink()


def test_images_that_are_missing_are_found_at_once(shapes: Path, tmp_path: Path, command_line, train_net, capsys):
    shutil.copytree(shapes, tmp_path / "broken")
    next((tmp_path / "broken" / "train").iterdir()).unlink()
    entry = ["broken_train", str(tmp_path / "broken/annotations/instances_train.json"), str(tmp_path / "broken/train")]
    words = ["DATASETS.REGISTER_COCO", [entry], "DATASETS.TRAIN", "('broken_train',)", "DATASETS.TEST", "()"]
    assert train_net(command_line(*words)) == 2
    assert "image file does not exist (1)" in capsys.readouterr().err


def test_a_lazy_config_has_a_tool_of_its_own(train_net, capsys) -> None:
    file = "configs/quick_schedules/fcos_R_18_FPT_quickstart.py"
    assert train_net(["--config-file", str(Path(__file__).parents[2] / file)]) == 2
    assert "fcos_R_18_FPT_quickstart.py is a lazy config: tools/lazyconfig_train_net.py" in capsys.readouterr().err


def test_the_config_is_frozen_and_kept(parse, out: Path) -> None:
    cfg = setup(parse("SOLVER.MAX_ITER", 3))
    assert cfg.is_frozen() and cfg.SOLVER.MAX_ITER == 3
    assert "MAX_ITER: 3" in (out / "config.yaml").read_text()


def test_debugging_makes_no_output_folder(parse, out: Path) -> None:
    setup(parse("DEBUG.ENABLED", True))
    assert not out.exists()


def test_reference_world_size_scales_the_schedule(parse) -> None:
    words = ["SOLVER.REFERENCE_WORLD_SIZE", 2, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.MAX_ITER", 10, "TEST.EVAL_PERIOD", 5]
    trainer = Trainer(setup(parse(*words)))
    solver = trainer.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER) == (2, 0.001, 20)
    assert trainer.max_iter == 20 and trainer.cfg.TEST.EVAL_PERIOD == 10
    assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.001
    assert len(next(iter(trainer.data_loader))) == 2
