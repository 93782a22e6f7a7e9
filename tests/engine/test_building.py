"""A value that Detectron2 refuses names its key; a mistake of ours, or of a user's own code, keeps its traceback."""

from __future__ import annotations

import pytest
import torch
from detectron2 import evaluation as d2
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.solver import build_lr_scheduler

from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.engine import ConfigError, Trainer, get_default_config, hardware, setup
from fpt_d2.engine.building import built
from fpt_d2.engine.hardware import check_operators
from fpt_d2.evaluation import build_evaluator, metric_names
from fpt_d2.evaluation.coco import RotatedCOCOEvaluator
from fpt_d2.modeling.build import build_resnet_fpt_backbone


def schedule(cfg: CfgNode) -> object:
    return build_lr_scheduler(cfg, torch.optim.SGD([torch.zeros(1)], 0.1))


def test_the_key_is_the_one_whose_default_would_do() -> None:
    cfg = get_default_config()
    cfg.merge_from_list(["SOLVER.GAMMA", 0.5, "SOLVER.LR_SCHEDULER_NAME", "Cosine", "SOLVER.MAX_ITER", 90000])
    said = (
        "The schedule cannot be built with SOLVER.LR_SCHEDULER_NAME 'Cosine': ValueError Unknown LR scheduler: Cosine"
    )
    with pytest.raises(ConfigError, match=f"^{said}$") as caught:
        built("The schedule", schedule, cfg)
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_key_of_the_command_line_goes_first(command_line, config_file: str, train_net, capsys) -> None:
    """The default of NUM_FC is what is refused: what the file has would do."""
    assert train_net(command_line("MODEL.ROI_BOX_HEAD.NUM_FC", 0)) == 2
    assert "cannot be built with MODEL.ROI_BOX_HEAD.NUM_FC 0: AssertionError" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError, AssertionError, KeyError, OSError, TypeError])
def test_what_other_code_raises_is_not_the_users_mistake(error: type[Exception]) -> None:
    def buggy(cfg: CfgNode) -> None:
        raise error("a bug")

    with pytest.raises(error, match="a bug") as caught:
        built("It", buggy, get_default_config())
    assert type(caught.value) is error


def test_a_backbone_of_ones_own_keeps_its_traceback(command_line, parse) -> None:
    def build_buggy_backbone(cfg, input_shape):
        return {}["gone"]

    BACKBONE_REGISTRY.register(build_buggy_backbone)
    try:
        with pytest.raises(KeyError, match="gone"):
            setup(parse("MODEL.BACKBONE.NAME", "build_buggy_backbone"))
    finally:
        del BACKBONE_REGISTRY._obj_map["build_buggy_backbone"]


@pytest.mark.parametrize(
    ("out_channels", "words", "said"),
    [
        (lambda cfg: -1, [], None),  # torch refuses what no key says
        (lambda cfg: cfg.MODEL.FPN.OUT_CHANNELS - 16, ["MODEL.FPN.OUT_CHANNELS", 8], "MODEL.FPN.OUT_CHANNELS 8"),
    ],
)
def test_what_torch_refuses_of_ones_own_backbone(out_channels, words, said, parse) -> None:
    def build_own_backbone(cfg, input_shape):
        torch.nn.Conv2d(3, out_channels(cfg), 1)
        return build_resnet_fpt_backbone(cfg, input_shape)

    BACKBONE_REGISTRY.register(build_own_backbone)
    try:
        with pytest.raises(ConfigError if said else RuntimeError, match=said or "negative dimension") as caught:
            setup(parse("MODEL.BACKBONE.NAME", "build_own_backbone", *words))
    finally:
        del BACKBONE_REGISTRY._obj_map["build_own_backbone"]
    assert isinstance(caught.value, ConfigError) == bool(said)


class OwnEvaluator(DatasetEvaluator):
    def evaluate(self) -> dict:
        return {"own": {"score": 7.0}}


class OwnTrainer(Trainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        return DatasetEvaluators([OwnEvaluator()])


@pytest.fixture
def untyped() -> str:
    """A data set of one image without an evaluator_type, as most that are registered in Python."""
    name = "tiny_untyped"
    DatasetCatalog.register(name, lambda: [])
    MetadataCatalog.get(name).set(thing_classes=list(CATEGORIES))
    yield name
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove(name)


def test_a_trainer_with_evaluators_of_its_own(untyped: str, parse) -> None:
    words = ["DATASETS.TEST", (untyped,), "TEST.EXPECTED_RESULTS", [["own", "score", 7, 0]]]
    cfg = setup(parse(*words), OwnTrainer)
    assert OwnTrainer(cfg).cfg.DATASETS.TEST == (untyped,)


def test_ours_says_what_it_lacks_where_it_is_known(untyped: str, parse) -> None:
    said = "'tiny_untyped' has evaluator_type None.*override build_evaluator"
    cfg = setup(parse("DATASETS.TEST", (untyped,)))  # which trainer comes is not known
    with pytest.raises(ConfigError, match=said):
        Trainer(cfg)
    with pytest.raises(ConfigError, match=said):
        setup(parse("DATASETS.TEST", (untyped,)), Trainer)


def test_rotated_boxes_have_detectron2s_evaluator(config_file: str, shapes, parse) -> None:
    cfg = setup(parse())
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NAME = "RROIHeads"
    assert type(build_evaluator(cfg, "tiny_val")) is RotatedCOCOEvaluator
    assert issubclass(RotatedCOCOEvaluator, d2.RotatedCOCOEvaluator)
    assert "bbox/AP" in metric_names(cfg, "tiny_val") and "segm/AP" not in metric_names(cfg, "tiny_val")


@pytest.mark.parametrize(
    ("words", "trains", "compiled", "said"),
    [
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4, "MODEL.DEVICE", "cpu"], True, True, "need a GPU"),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4, "MODEL.DEVICE", "cpu"], False, False, ""),
        (
            ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4, "MODEL.RESNETS.DEFORM_MODULATED", True]
            + ["MODEL.DEVICE", "cpu"],
            False,
            True,
            "need a GPU",
        ),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4], True, False, "compiled operators"),
        (["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [True] * 4], True, True, ""),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], True, False, "compiled operators"),
        (["MODEL.ROI_HEADS.NAME", "RROIHeads"], True, True, ""),
    ],
)
def test_operators_that_are_not_there(words, trains: bool, compiled: bool, said: str, monkeypatch) -> None:
    monkeypatch.setattr(hardware, "HAS_COMPILED", compiled)
    cfg = get_default_config()
    cfg.merge_from_list(words)
    if said:
        with pytest.raises(ConfigError, match=said):
            check_operators(cfg, trains=trains)
    else:
        check_operators(cfg, trains=trains)
