"""A training that is stopped and resumed, against one that is not: images, losses, and what is written."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.engine import hooks
from detectron2.utils.events import get_event_storage

from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.resumption import cut_metrics

Steps = dict[int, tuple[list[Any], dict[str, float]]]


class Stopped(Exception):
    pass


def train(cfg: CfgNode, *, resume: bool = False, stop: int = 100, cls: type[Trainer] = Trainer) -> Steps:
    """Train up to iteration ``stop``; of each iteration the images, by name and by sum of pixels, and the losses."""
    steps: Steps = {}
    images: list[Any] = []

    def stop_here(trainer: Trainer) -> None:
        if trainer.iter == stop:
            raise Stopped

    def note(trainer: Trainer) -> None:
        latest = get_event_storage().latest()
        steps[trainer.iter] = images[:], {name: latest[name][0] for name in latest if "loss" in name}
        images.clear()

    trainer = cls(cfg)
    trainer.model.register_forward_pre_hook(
        lambda _, batch: images.extend((Path(x["file_name"]).name, int(x["image"].sum())) for x in batch[0])
    )
    trainer.register_hooks([hooks.CallbackHook(before_step=stop_here, after_step=note)])
    trainer.resume_or_load(resume=resume)
    try:
        trainer.train()
    except Stopped:
        pass
    return steps


def check_equal(steps: Steps, expected: Steps) -> None:
    assert steps and set(steps) <= set(expected)
    for iteration, (images, losses) in steps.items():
        assert images == expected[iteration][0], iteration
        assert losses == pytest.approx(expected[iteration][1], abs=1e-6), iteration


# Without a seed: what the first training has drawn is the seed of what goes on with it.
WORDS = ["SEED", -1, "SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", "()"]
RETINANET = ["MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.BACKBONE.NAME", "build_retinanet_resnet_fpt_backbone"]
RETINANET += ["MODEL.MASK_ON", False, "DATALOADER.ASPECT_RATIO_GROUPING", False]


@pytest.mark.parametrize(
    ("words", "workers", "workers_again"),
    [([], 0, 2), ([], 2, 1), (RETINANET, 0, 0)],
    ids=["0, 2", "2, 1", "RetinaNet"],
)
def test_images_and_losses_are_those_of_a_training_that_was_not_stopped(
    words: list[Any], workers: int, workers_again: int, parse: Callable[..., Namespace], out: Path
) -> None:
    whole = train(setup(parse(*WORDS, *words, "DATALOADER.NUM_WORKERS", workers)))
    assert sorted(whole) == list(range(6))
    (out / "last_checkpoint").write_text("model_0000001.pth")  # as a kill before the next checkpoint leaves it
    resumed = train(setup(parse(*WORDS, *words, "DATALOADER.NUM_WORKERS", workers_again, "--resume")), resume=True)
    assert sorted(resumed) == list(range(2, 6))
    check_equal(resumed, whole)
