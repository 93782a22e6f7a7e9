"""Semantic segmentation through train_net.py: trained, evaluated in every way, and its mistakes in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.validation import validation_losses
from fpt_d2.model_zoo import get_config_file
from tests.semantic import CLASSES, CONFIG, write_semantic

NAMES = ("tiny_masks_train", "tiny_masks_val")


@pytest.fixture
def root(tmp_path: Path):
    """Folder of the data sets, which may be spoilt."""
    yield tmp_path
    for name in (*NAMES, *(f"{name}_first_2" for name in NAMES)):
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


@pytest.fixture
def config_file(root: Path) -> str:
    """A config of the tiny model on two data sets of four images each."""
    entries = [[name, *write_semantic(root / name)] for name in NAMES]
    datasets = {"TRAIN": [NAMES[0]], "TEST": [NAMES[1]], "REGISTER_SEM_SEG": entries}
    path = root / "semantic.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "DATASETS": datasets}))
    return str(path)


def read_metrics(out: Path) -> dict[str, float]:
    """The last value of every metric."""
    lines = (out / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def test_a_training_with_everything_on_and_its_evaluation(command_line, train_net, out: Path) -> None:
    words = ["TEST.EVAL_PERIOD", 2, "TEST.LOSS", True, "TEST.VIS_IMAGES", 2, "TEST.BEST_METRIC", "sem_seg/mIoU"]
    words += ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", "(40, 64)", "INPUT.COLOR_AUG_SSD", True]
    words += ["TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.SIZE", "(40, 36)"]
    words += ["TEST.SLIDING_WINDOW.STRIDE", "(24, 24)", "TEST.SEM_SEG_RESULTS", True]
    assert train_net(command_line(*words)) == 0
    metrics = read_metrics(out)
    for name in ("total_loss", "validation/loss_sem_seg", "sem_seg/mIoU", "sem_seg/fwIoU", "sem_seg_TTA/mIoU"):
        assert metrics[name] >= 0, name
    assert torch.load(out / "model_best.pth", weights_only=True)["best"]["metric"] == "sem_seg/mIoU"
    assert (out / "learning_curves.png").stat().st_size > 1000
    for folder in ("inference", "inference_TTA"):
        for kind in ("sem_seg_labels", "sem_seg_overlays"):
            assert sorted(p.name for p in (out / folder / kind).iterdir()) == [f"{i}.png" for i in range(4)]
    events = EventAccumulator(str(out))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["predictions/0.png", "predictions/1.png"]

    again = ["--eval-only", "MODEL.WEIGHTS", out / "model_final.pth", "OUTPUT_DIR", out / "again"]
    expected = [
        ["sem_seg", "mIoU", metrics["sem_seg/mIoU"], 1e-3],
        ["sem_seg_TTA", "mIoU", metrics["sem_seg_TTA/mIoU"], 1e-3],
    ]
    assert train_net(command_line(*words, *again, "TEST.EXPECTED_RESULTS", expected)) == 0


def test_a_window_that_covers_the_images_changes_no_figure(parse, root: Path) -> None:
    def results(*words) -> dict:
        return Trainer.test(cfg := setup(parse(*words)), model.eval(), [Trainer.build_evaluator(cfg, NAMES[1])])

    model = Trainer.build_model(setup(parse()))
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)  # as it starts, one class may be everywhere
    plain = results()["sem_seg"]
    window = ["TEST.SLIDING_WINDOW.ENABLED", True, "TEST.SLIDING_WINDOW.STRIDE", "(8, 8)", "TEST.SLIDING_WINDOW.SIZE"]
    np.testing.assert_equal(results(*window, "(100, 100)")["sem_seg"], plain)
    assert results(*window, "(40, 36)")["sem_seg"]["pACC"] != plain["pACC"]


def test_it_learns(parse) -> None:
    cfg = setup(
        parse("SOLVER.MAX_ITER", 60, "SOLVER.BASE_LR", 0.03, "INPUT.CROP.ENABLED", False, "TEST.EVAL_PERIOD", 0)
    )
    trainer = Trainer(cfg)
    before = validation_losses(cfg, trainer.model)["loss_sem_seg"]
    trainer.train()
    assert validation_losses(cfg, trainer.model)["loss_sem_seg"] < 0.5 * before


def test_crops_of_several_sizes_make_a_batch_padded_without_loss(parse) -> None:
    cfg = setup(parse("INPUT.MIN_SIZE_TRAIN", "(32, 64)", "SOLVER.IMS_PER_BATCH", 4))
    batch = next(iter(Trainer.build_train_loader(cfg)))
    assert len({tuple(x["image"].shape) for x in batch}) > 1
    model = Trainer.build_model(cfg)
    seen = []
    model.sem_seg_head.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    losses = model(batch)
    assert torch.isfinite(losses["loss_sem_seg"])
    padding = seen[0].numel() - sum(x["sem_seg"].numel() for x in batch)
    assert (seen[0] == 255).sum() == padding + sum((x["sem_seg"] == 255).sum() for x in batch)


def test_debug_mode_evaluates_its_few_images(command_line, train_net, capsys) -> None:
    assert train_net(command_line("DEBUG.ENABLED", True, "DEBUG.NUM_IMAGES", 2, "DEBUG.MAX_ITER", 1)) == 0


def shrink(root: Path) -> None:
    Image.new("L", (9, 9)).save(root / NAMES[0] / "masks" / "1.png")


def relabel(root: Path) -> None:
    path = root / NAMES[1] / "masks" / "2.png"
    Image.fromarray(np.where(np.array(Image.open(path)) == 1, 9, 0).astype(np.uint8)).save(path)


def remove(root: Path) -> None:
    shutil.rmtree(root / NAMES[0] / "masks")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shrink, "mask has another size than its image (1)"),
        (relabel, "2.png has 9"),
        (remove, "the mask folder of 'tiny_masks_train' does not exist"),
    ],
)
def test_wrong_data_are_one_sentence(
    spoil: Callable, sentence: str, root: Path, command_line, train_net, capsys, out: Path
) -> None:
    words = command_line()
    spoil(root)
    assert train_net(words) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert not list(out.rglob("*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19, "DATASETS.TEST", "()"], "set MODEL.SEM_SEG_HEAD.NUM_CLASSES 3"),
        (["INPUT.CROP.TYPE", "square"], "INPUT.CROP.TYPE is 'square'"),
        (["INPUT.CROP.TYPE", "absolute"], "INPUT.CROP.SIZE is [0.8, 0.8]"),
        (["INPUT.CROP.SIZE", "(24, 24)"], "INPUT.CROP.SIZE is [24, 24]"),
        (["INPUT.CROP.SINGLE_CATEGORY_MAX_AREA", 0.0], "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA is 0.0"),
        (["INPUT.RANDOM_FLIP", "both"], "INPUT.RANDOM_FLIP is 'both'"),
        (["TEST.SLIDING_WINDOW.STRIDE", "(512, 800)"], "TEST.SLIDING_WINDOW.STRIDE is (512, 800)"),
        (["TEST.SLIDING_WINDOW.SIZE", "(0, 800)"], "TEST.SLIDING_WINDOW.SIZE is (0, 800)"),
    ],
)
def test_a_wrong_value_is_one_sentence(words, sentence: str, command_line, train_net, capsys, out: Path) -> None:
    assert train_net(command_line(*words)) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1
    assert not list(out.rglob("*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["MODEL.UFP.KERNELS", "[1, 4]"], "MODEL.UFP.KERNELS is [1, 4]"),
        (["MODEL.RESNETS.RES4_DILATION", 3], "MODEL.RESNETS.(RES4_DILATION, RES5_DILATION) is (3, 4)"),
        (["MODEL.SEM_SEG_HEAD.LOSS_TYPE", "dice"], "MODEL.SEM_SEG_HEAD.LOSS_TYPE is 'dice'"),
        (["MODEL.SEM_SEG_HEAD.PPM_BINS", "[0]"], "MODEL.SEM_SEG_HEAD.PPM_BINS is [0]"),
        (["MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2']"], "MODEL.SEM_SEG_HEAD.IN_FEATURES is ['p2']"),
        (["MODEL.SEM_SEG_HEAD.AUX_FEATURE", "res3"], "MODEL.SEM_SEG_HEAD.AUX_FEATURE is 'res3'"),
    ],
)
def test_a_wrong_value_of_ufp_or_its_heads_is_one_sentence(words, sentence, train_net, capsys, out: Path) -> None:
    config_file = get_config_file("Cityscapes-SemanticSegmentation/ufp_fpt_R_50.yaml")
    common = ["--config-file", config_file, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(out)]
    assert train_net([*common, *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.strip().splitlines()) == 1


def test_sets_that_differ_in_the_mirror_are_refused_before_training(command_line, train_net, capsys) -> None:
    names = ["mirrored", "plain"]
    for name in names:
        DatasetCatalog.register(name, list)
        MetadataCatalog.get(name).set(stuff_classes=CLASSES, ignore_label=255, evaluator_type="sem_seg")
    MetadataCatalog.get("mirrored").stuff_flip_map = [CLASSES[1:]]
    words = ["DATASETS.TEST", tuple(names), "TEST.AUG.ENABLED", True, "DATASETS.CHECK", False]
    try:
        assert train_net(command_line(*words)) == 2
    finally:
        for name in names:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
    assert "The data sets mirrored, plain differ" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["TEST.SLIDING_WINDOW.ENABLED", "TEST.SEM_SEG_RESULTS", "TEST.AUG.ENABLED"])
def test_what_other_models_cannot_do_is_refused(key: str, command_line, train_net, capsys) -> None:
    retinanet = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpt_backbone"]
    assert train_net(command_line(key, True, *retinanet, "DATASETS.CHECK", False)) == 2
    error = capsys.readouterr().err
    assert f"{key} needs" in error and "SemanticSegmentor" in error


def test_the_classes_are_those_of_the_metrics(parse, out: Path) -> None:
    cfg = setup(parse())
    results = Trainer.test(cfg, Trainer.build_model(cfg))["sem_seg"]
    assert [name for name in results if name.startswith("IoU-")] == [f"IoU-{name}" for name in CLASSES]
