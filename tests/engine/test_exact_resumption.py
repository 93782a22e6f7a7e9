"""A training that is stopped and resumed, against one that is not: images, losses, and what is written."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.engine import hooks
from detectron2.utils.events import EventStorage, JSONWriter, get_event_storage

from fpt_d2.data import TrainLoader, resumable_loader
from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.exact_resumption import ExactResumption, UnfinishedStep
from fpt_d2.engine.metrics import cut_metrics, written_names

Steps = dict[int, tuple[list[Any], dict[str, float]]]


def train(cfg: CfgNode, *, resume: bool = False) -> Steps:
    """Train; of each iteration the images, by name and by sum of pixels, and the losses."""
    steps: Steps = {}
    images: list[Any] = []

    def note(trainer: Trainer) -> None:
        latest = get_event_storage().latest()
        steps[trainer.iter] = images[:], {name: latest[name][0] for name in latest if "loss" in name}
        images.clear()

    trainer = Trainer(cfg)
    trainer.model.register_forward_pre_hook(
        lambda _, batch: images.extend((Path(x["file_name"]).name, int(x["image"].sum())) for x in batch[0])
    )
    trainer.register_hooks([hooks.CallbackHook(after_step=note)])
    trainer.resume_or_load(resume=resume)
    trainer.train()
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


def metrics(out: Path) -> list[dict[str, float]]:
    """Of each line of metrics.json what is not a time or a memory."""
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if "time" not in k and k not in ("[metric]max_mem_gb", "eta_seconds")}
        for line in lines
    ]


def test_metrics_and_statistics_are_as_if_it_had_not_been_stopped(
    parse: Callable[..., Namespace], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Medians over iterations before the stop, the evaluation's loss, and the images that PreciseBN measures on."""
    words = ["SOLVER.MAX_ITER", 5, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.PRECISE_BN.ENABLED", True]
    words += ["TEST.PRECISE_BN.NUM_ITER", 1, "TEST.EVAL_PERIOD", 2, "TEST.LOSS", True, "--resume"]
    train(setup(parse(*words)))
    whole = metrics(out)
    assert [line["iteration"] for line in whole] == [4, 3, 5]
    assert "was not finished" not in capsys.readouterr().out
    with open(out / "metrics.json", "a") as file:
        file.write('{"iteration": 5, "lr')  # a kill in the midst of a line
    (out / "last_checkpoint").write_text("model_0000001.pth")
    train(setup(parse(*words)), resume=True)
    assert "Iteration 1 was not finished" in capsys.readouterr().out
    assert metrics(out) == [pytest.approx(line, abs=1e-6, nan_ok=True) for line in whole]


def test_metrics_of_an_evaluation_at_an_end_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    lines = ['{"iteration": 3, "total_loss": 1}', '{"iteration": 4, "bbox/AP": 2}', '{"iteration": 4, "total_loss": 1}']
    path.write_text("".join(line + "\n" for line in lines))
    assert written_names(str(path), [4, 5]) == {4: {"iteration", "bbox/AP", "total_loss"}, 5: set()}
    cut_metrics(str(path), 5)
    assert path.read_text().splitlines() == lines
    cut_metrics(str(path), 4)
    assert path.read_text().splitlines() == lines[:2]
    cut_metrics(str(path), 0)  # another training in this folder
    assert path.read_text().splitlines() == lines[:2]


SAVED = {"course": {"seed": 1, "processes": 1, "images per batch": 2, "images": 4}, "history": {}, "normalizers": []}


@pytest.mark.parametrize(
    ("saved", "own_loader", "says"),
    [
        (SAVED, False, ""),
        (None, False, "does not have the seed of its training"),
        (SAVED, True, "its images start again from the first"),
        (
            {**SAVED, "course": {**SAVED["course"], "processes": 2, "images": 9}},
            False,
            "processes 2, now 1; images 9, now 4",
        ),
    ],
)
def test_what_is_not_resumed_exactly_is_said(saved, own_loader, says, tmp_path: Path, caplog) -> None:
    records = [{"image_id": i, "width": 2, "height": 2} for i in range(4)]
    loader = resumable_loader(records, total_batch_size=2, mapper=dict)
    trainer = SimpleNamespace(start_iter=3, max_iter=9, data_loader=loader, _hooks=[], storage=EventStorage())
    trainer.data_loader = [] if own_loader else loader
    hook = ExactResumption(1, 2, str(tmp_path))
    hook.trainer = trainer
    if saved:
        hook.load_state_dict(saved)
    with caplog.at_level(logging.INFO, logger="fpt_d2.engine.exact_resumption"):
        hook.before_train()
    said = " ".join(r.message for r in caplog.records if r.name == "fpt_d2.engine.exact_resumption")
    assert says in said and bool(said) == bool(says)
    assert not isinstance(loader, TrainLoader) or loader.start == (0 if own_loader else 3)


LINES = {"losses": '"total_loss": 1', "evaluation": '"evaluated": 1, "total_loss": 1'}


@pytest.mark.parametrize(
    ("start", "lines", "evaluates", "writes"),
    [
        (40, [], True, {"bbox/AP", "total_loss", "evaluated", "iteration"}),  # killed after the checkpoint
        (40, ["losses"], True, {"bbox/AP", "evaluated", "iteration"}),  # Ctrl-C in the evaluation
        (40, ["evaluation"], False, set()),
        (20, [], False, {"total_loss", "iteration"}),
        (20, ["losses"], False, set()),
        (30, [], False, set()),
    ],
)
def test_the_end_of_a_step_is_made_up_for(start, lines, evaluates, writes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(f'{{{LINES[line]}, "iteration": {start - 1}}}\n' for line in lines))
    calls: list[int] = []
    evaluation = hooks.EvalHook(40, lambda: calls.append(trainer.iter) or {"bbox": {"AP": 3.0}})
    step = UnfinishedStep(40, 20, str(tmp_path))
    trainer = SimpleNamespace(start_iter=start, iter=start, max_iter=90, storage=EventStorage(start))
    with trainer.storage:
        trainer._hooks = [evaluation, step, hooks.PeriodicWriter([JSONWriter(str(path))], 20)]
        for hook in trainer._hooks:
            hook.trainer = trainer
        trainer.storage.put_scalar("total_loss", 1, cur_iter=start - 1)
        step.before_train()
    written = path.read_text().splitlines()[len(lines) :]
    assert calls == [start - 1] * evaluates and trainer.iter == trainer.storage.iter == start
    assert {name for line in written for name in json.loads(line)} == writes
    assert all(json.loads(line)["iteration"] == start - 1 for line in written)


def test_an_evaluation_made_up_for_between_two_lines_is_in_the_next(tmp_path: Path) -> None:
    evaluation, step = hooks.EvalHook(10, lambda: {"bbox": {"AP": 3.0}}), UnfinishedStep(10, 20, str(tmp_path))
    trainer = SimpleNamespace(start_iter=10, max_iter=90, storage=EventStorage(10), _hooks=[evaluation, step])
    evaluation.trainer = step.trainer = trainer
    trainer.storage.put_scalar("total_loss", 1, cur_iter=9)
    step.before_train()
    assert trainer.storage.latest() == {"total_loss": (1.0, 9), "bbox/AP": (3.0, 9), "evaluated": (1.0, 9)}
