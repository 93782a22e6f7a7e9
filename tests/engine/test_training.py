"""Whole trainings: what they leave, how they go on, how they end."""

import json
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fvcore.common.checkpoint
import numpy as np
import pytest
import torch
from detectron2.engine import hooks
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fpt_d2.engine import ConfigError, Trainer, setup
from fpt_d2.engine.checkpoint import SafeCheckpointer
from fpt_d2.engine.trainer import _without_nan

ROOT = Path(__file__).resolve().parents[2]


def read_metrics(out: Path) -> dict[str, float]:
    """The last value of every metric."""
    lines = (out / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def train(cfg, *, resume: bool = False, cls: type[Trainer] = Trainer, **at: Callable[[], None]) -> Trainer:
    """Train; what is given as ``at_3`` is called within iteration 3."""

    def interfere(trainer) -> None:
        at.get(f"at_{trainer.iter}", lambda: None)()

    trainer = cls(cfg)
    trainer.register_hooks([hooks.CallbackHook(before_step=interfere)])
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return trainer


def test_a_training_and_evaluating_its_model_again(command_line, train_net, out: Path) -> None:
    words = ["TEST.EVAL_PERIOD", 2, "TEST.LOSS", True, "TEST.VIS_IMAGES", 2, "TEST.AUG.ENABLED", True]
    words += ["TEST.AUG.MIN_SIZES", "(64,)", "TEST.AUG.FLIP", False]
    words += ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 50, 50]]"]
    assert train_net(command_line(*words)) == 0
    assert (out / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(out.glob("*unfinished*"))
    assert (out / "learning_curves.png").stat().st_size > 1000
    metrics = read_metrics(out)
    for name in ["total_loss", "loss_mask", "validation/total_loss", "validation/loss_mask", "segm/AP", "bbox_TTA/AP"]:
        assert metrics[name] >= 0, name
    assert metrics["[metric]max_mem_gb"] > 0.1
    events = EventAccumulator(str(out))
    events.Reload()
    assert sorted(events.Tags()["images"]) == ["predictions/000001.jpg", "predictions/000002.jpg"]
    trained = (out / "inference" / "coco_instances_results.json").read_text()
    assert len(json.loads(trained)) > 20
    words = ["--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth"), "OUTPUT_DIR", str(out / "again")]
    assert train_net(command_line(*words)) == 0
    assert (out / "again" / "inference" / "coco_instances_results.json").read_text() == trained
    results = json.loads((out / "again" / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert results["segm"]["AP"] == metrics["segm/AP"]


def test_results_are_json_where_there_is_nothing_to_measure() -> None:
    results = {"bbox": {"AP": 12.5, "APl": math.nan, "APm": np.float64("nan"), "AP-star": np.float64(1)}}
    text = json.dumps(_without_nan(results), allow_nan=False)
    assert json.loads(text) == {"bbox": {"AP": 12.5, "APl": None, "APm": None, "AP-star": 1.0}}


def test_a_checkpoint_is_logged_by_its_final_name(tmp_path: Path, caplog, monkeypatch) -> None:
    # Detectron2's setup ends what is propagated from it.
    monkeypatch.setattr(logging.getLogger("fvcore.common.checkpoint"), "handlers", [caplog.handler])
    with caplog.at_level("INFO", logger="fvcore.common.checkpoint"):
        SafeCheckpointer(torch.nn.Linear(1, 1), str(tmp_path)).save("model_final")
    assert f"Saving checkpoint to {tmp_path / 'model_final.pth'}" in caplog.text
    assert "unfinished" not in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last_checkpoint", "model_final.pth"]


def test_an_evaluation_takes_no_part_of_a_model(
    parse, command_line, train_net, out: Path, tmp_path: Path, capsys
) -> None:
    weights = Trainer.build_model(setup(parse("MODEL.FPT.BRANCHES", "[]"))).state_dict()
    path = tmp_path / "weights.pth"
    torch.save({"model": weights}, path)
    words = ["--eval-only", "MODEL.WEIGHTS", str(path)]
    assert train_net(command_line(*words)) == 0  # an FPN's, which FPT starts as
    shutil.rmtree(out)
    capsys.readouterr()
    torch.save({"model": {n: w for n, w in weights.items() if not n.startswith("roi_heads.mask_head")}}, path)
    assert train_net(command_line(*words)) == 2
    error = capsys.readouterr().err.strip()
    assert f"{path} is not the whole of this model" in error and "it lacks 6 tensors (roi_heads.mask_head 6)" in error
    assert len(error.splitlines()) == 1
    assert not (out / "inference").exists()


def test_a_killed_training_goes_on_from_its_last_checkpoint(parse, out: Path) -> None:
    words = ["SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.STEPS", "(4,)"]
    cfg = setup(parse(*words, "DATASETS.TEST", "()"))

    def die() -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(cfg, at_5=die)
    assert (out / "last_checkpoint").read_text() == "model_0000003.pth"
    saved = load(out / "model_0000003.pth")

    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 4
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, saved["model"][name]), name
    momentum = trainer.optimizer.state_dict()["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, saved["trainer"]["_trainer"]["optimizer"]["state"][0]["momentum_buffer"])
    trainer.train()
    assert load(out / "model_final.pth")["iteration"] == 5
    assert read_metrics(out)["lr"] == pytest.approx(0.0002)


def test_a_finished_training_started_again_is_evaluated(parse, out: Path) -> None:
    cfg = setup(parse("SOLVER.MAX_ITER", 2))
    train(cfg)
    results = out / "inference" / "coco_instances_results.json"
    written, first = (out / "model_final.pth").stat().st_mtime_ns, results.read_text()
    results.unlink()
    trainer = train(cfg, resume=True)
    assert trainer.start_iter == 2
    assert results.read_text() == first
    assert (out / "model_final.pth").stat().st_mtime_ns == written


def test_a_half_written_checkpoint_is_never_the_last(parse, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(setup(parse()))
    trainer.checkpointer.save("model_0000001", iteration=1)

    def die_halfway(data: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(fvcore.common.checkpoint.torch, "save", die_halfway)
    for name in ["model_0000003", "model_0000001"]:
        with pytest.raises(KeyboardInterrupt):
            trainer.checkpointer.save(name, iteration=3)
    assert trainer.checkpointer.get_checkpoint_file() == str(out / "model_0000001.pth")
    assert trainer.checkpointer.load(str(out / "model_0000001.pth"), checkpointables=[])["iteration"] == 1


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Python's own handler, which is not there in a process that a shell has started in the background."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_step_is_finished_and_saved(parse, out: Path) -> None:
    cfg = setup(parse("SOLVER.MAX_ITER", 4, "DATASETS.TEST", "()"))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(cfg, at_1=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert (out / "last_checkpoint").read_text() == "model_0000001.pth"
    assert load(out / "model_0000001.pth")["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 2
    assert (out / "learning_curves.png").exists()
    assert train(cfg, resume=True).start_iter == 2
    assert (out / "last_checkpoint").read_text() == "model_final.pth"


class Scripted(Trainer):
    """Its evaluation says what ``ap`` says for the iteration."""

    ap: Callable[[int], float]

    def build_hooks(self) -> list[Any]:
        type(self).current = self
        return super().build_hooks()

    @classmethod
    def test(cls, cfg, model, evaluators=None) -> dict[str, dict[str, float]]:
        return {"bbox": {"AP": float(cls.ap(cls.current.iter))}}


def test_an_interrupted_evaluation_is_ended_at_once_and_saved(parse, out: Path) -> None:
    class Interrupting(Scripted):
        @staticmethod
        def ap(iteration: int) -> float:
            interrupt()
            raise AssertionError("the evaluation went on")

    with pytest.raises(KeyboardInterrupt):
        train(setup(parse("SOLVER.MAX_ITER", 3, "TEST.EVAL_PERIOD", 1)), cls=Interrupting)
    assert (out / "last_checkpoint").read_text() == "model_0000000.pth"


def test_a_second_interrupt_ends_at_once(parse, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fpt_d2.signals._ECHO_SECONDS", 0.0)

    def twice() -> None:
        interrupt()
        interrupt()
        raise AssertionError("the step went on")

    with pytest.raises(KeyboardInterrupt):
        train(setup(parse()), at_1=twice)
    assert not (out / "last_checkpoint").exists()


def test_the_best_model_is_kept_and_remembered(parse, out: Path) -> None:
    class Evaluated(Scripted):
        @staticmethod
        def ap(iteration: int) -> float:
            # After the last iteration, 2 and 5, the counter stands at 3 and 6.
            return {0: 1, 1: 5, 3: 4, 4: 3, 6: 4.5}[iteration]

    words = ["TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "bbox/AP", "SOLVER.CHECKPOINT_PERIOD", 100]
    for max_iter in (3, 6):
        train(setup(parse(*words, "SOLVER.MAX_ITER", max_iter, "--resume")), cls=Evaluated, resume=True)
        best = load(out / "model_best.pth")
        assert best["best"] == {"metric": "bbox/AP", "value": 5.0} and best["iteration"] == 1
        assert (out / "last_checkpoint").read_text() == "model_final.pth"


def test_a_metric_that_is_not_evaluated(parse) -> None:
    """Nothing tells before the first evaluation that there is no such class; it then names metrics alone."""
    with pytest.raises(ConfigError, match="'bbox/AP-kite' is none of what was evaluated: bbox/AP, ") as caught:
        train(setup(parse("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "bbox/AP-kite")))
    assert "rpn" not in str(caught.value)


def test_a_training_that_gets_no_better_stops(parse, out: Path) -> None:
    evaluated = []

    class Evaluated(Scripted):
        @staticmethod
        def ap(iteration: int) -> float:
            evaluated.append(iteration)
            return {0: 1, 1: 3}.get(iteration, 2)

    def run(patience: int) -> int:
        words = ["TEST.EVAL_PERIOD", 1, "TEST.BEST_METRIC", "bbox/AP", "SOLVER.MAX_ITER", 9, "TEST.PATIENCE", patience]
        evaluated.clear()
        train(setup(parse(*words, "--resume")), cls=Evaluated, resume=True)
        assert load(out / "model_best.pth")["iteration"] == 1
        assert (out / "last_checkpoint").read_text() == "model_final.pth"
        return load(out / "model_final.pth")["iteration"]

    assert run(patience=2) == 3
    assert evaluated == [0, 1, 2, 3, 3]
    assert (out / "learning_curves.png").exists()
    written = (out / "model_final.pth").stat().st_mtime_ns
    assert run(patience=2) == 3
    assert evaluated == [4] and (out / "model_final.pth").stat().st_mtime_ns == written
    assert run(patience=4) == 5
    assert evaluated == [4, 5, 5]


def test_debugging_trains_on_a_few_images_and_leaves_nothing(command_line, tmp_path: Path) -> None:
    words = ["DEBUG.ENABLED", True, "DEBUG.NUM_IMAGES", 3, "DEBUG.MAX_ITER", 2, "TEST.BEST_METRIC", "bbox/AP"]
    words = command_line(*words, "TEST.EVAL_PERIOD", 1, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 999, 0]]")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "train_net.py"), *words]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr
    assert "Start inference on 3 batches" in run.stdout and "iter: 1" in run.stdout
    assert "Removed 0 images with no usable annotations. 3 images left." in run.stdout
    assert "bbox" in run.stdout and "Saving checkpoint" not in run.stdout
    assert list(tmp_path.rglob("*")) == []
