"""What is shown of the test set during a training is right, and changes nothing of the training."""

import copy
import math
import random
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.events import EventStorage

from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.validation import put_predictions, validation_losses

RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpt_backbone"]
RETINANET += ["MODEL.RESNETS.OUT_FEATURES", "['res3','res4','res5']", "MODEL.FPN.IN_FEATURES", "['res3','res4','res5']"]
RETINANET += ["MODEL.MASK_ON", False, "MODEL.RETINANET.NUM_CONVS", 1, "MODEL.RETINANET.NORM", "BN"]
MODELS = pytest.mark.parametrize("words", [[], RETINANET], ids=["mask_rcnn", "retinanet"])


def test_a_training_takes_the_same_course(parse) -> None:
    def weights_after_three_steps(*words) -> dict[str, torch.Tensor]:
        cfg = setup(parse("DEBUG.ENABLED", True, "DEBUG.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1, *words))
        trainer = Trainer(cfg.clone())
        trainer.train()
        return trainer.model.state_dict()

    without = weights_after_three_steps()
    with_both = weights_after_three_steps("TEST.LOSS", True, "TEST.VIS_IMAGES", 1)
    assert list(without) == list(with_both)
    for name, weight in without.items():
        assert torch.equal(weight, with_both[name]), name


@MODELS
def test_losses_change_nothing_and_are_the_same_each_time(words: list, parse) -> None:
    cfg = setup(parse(*words))
    model = Trainer.build_model(cfg).train()
    before, plain = copy.deepcopy(model.state_dict()), {k: v for k, v in vars(model).items() if isinstance(v, float)}
    rng = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    losses = validation_losses(cfg, model)
    assert losses == validation_losses(cfg, model)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(rng[0], after[0]) and rng[1:] == after[1:]
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert {k: v for k, v in vars(model).items() if isinstance(v, float)} == plain
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    parts = {name: loss for name, loss in losses.items() if name != "total_loss"}
    assert len(parts) == (2 if words else 5)
    assert math.isclose(losses["total_loss"], sum(parts.values())) and losses["total_loss"] > 0


def test_losses_are_the_average_over_the_images(parse) -> None:
    # Every anchor and proposal counts, so that no sampling blurs the figures.
    words = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100000]
    cfg = setup(parse(*words))
    model = Trainer.build_model(cfg)
    of_all = validation_losses(cfg, model)
    records = DatasetCatalog.get("tiny_val")
    metadata = MetadataCatalog.get("tiny_val")
    of_each = []
    for number, record in enumerate(records):
        name = f"tiny_val_{number}"
        DatasetCatalog.register(name, lambda record=record: [record])
        MetadataCatalog.get(name).set(thing_classes=metadata.thing_classes)
        single = cfg.clone()
        single.defrost()
        single.DATASETS.TEST = (name,)
        of_each.append(validation_losses(single, model))
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for name, value in of_all.items():
        assert value == pytest.approx(np.mean([losses[name] for losses in of_each]), rel=1e-5), name


def test_a_model_that_fits_better_loses_less(parse) -> None:
    cfg = setup(parse("DATASETS.TEST", "('tiny_train',)", "DEBUG.ENABLED", True, "DEBUG.MAX_ITER", 8))
    trainer = Trainer(cfg)
    before = validation_losses(cfg, trainer.model)
    trainer.train()
    assert validation_losses(cfg, trainer.model)["total_loss"] < 0.9 * before["total_loss"]


@MODELS
def test_pictures_of_the_first_images(words: list, parse) -> None:
    cfg = setup(parse(*words, "TEST.VIS_IMAGES", 3))
    model = Trainer.build_model(cfg).train()
    with EventStorage() as storage:
        put_predictions(cfg, model)
    records = DatasetCatalog.get("tiny_val")[:3]
    assert len(storage._vis_data) == 3 and model.training
    for (_, picture, _), record in zip(storage._vis_data, records, strict=True):
        assert picture.shape == (3, record["height"], record["width"])
        assert picture.dtype == np.uint8


def test_pictures_of_images_of_one_name_have_tags_of_their_own(parse, tmp_path) -> None:
    cfg = setup(parse("TEST.VIS_IMAGES", 4))
    cfg.defrost()
    model = Trainer.build_model(cfg).train()
    records = []
    for folder, record in zip("abcd", DatasetCatalog.get("tiny_val")):
        (tmp_path / folder).mkdir()
        shutil.copy(record["file_name"], tmp_path / folder / "1.jpg")
        records.append(record | {"file_name": str(tmp_path / folder / "1.jpg")})
    for name, part in (("one_name", records[:2]), ("other_name", records[1:])):
        DatasetCatalog.register(name, lambda part=part: part)
        MetadataCatalog.get(name).set(thing_classes=MetadataCatalog.get("tiny_val").thing_classes)
    try:
        for names in (("one_name",), ("one_name", "other_name")):
            cfg.DATASETS.TEST = names
            with EventStorage() as storage:
                put_predictions(cfg, model)
            assert len({tag for tag, _, _ in storage._vis_data}) == len(storage._vis_data) == 2 * len(names)
    finally:
        for name in ("one_name", "other_name"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
