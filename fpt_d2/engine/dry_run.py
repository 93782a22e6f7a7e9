"""What a training or an evaluation is going to be, measured on a few of its iterations: ``fpt-train --check``."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import inference_context
from detectron2.utils.events import EventStorage
from torch import nn

from ..errors import ConfigError
from .debug import use_debug_settings
from .hardware import peak_memory
from .inference import with_sliding_window, without_ddp
from .resumption import last_checkpoint, read_trainer
from .setup import checked_config
from .trainer import Trainer

# Iterations, or images, that are measured.
MEASURED = 4
_MOST_CLASSES = 8  # that are named

Rows = Iterator[tuple[str, str]]


def dry_run(args: argparse.Namespace, trainer: type[Trainer] = Trainer) -> str:
    """Check all that can be checked, run a few iterations with a model that is thrown away, and say what would run.

    Nothing is written to ``OUTPUT_DIR``.

    Args:
        args: of :func:`fpt_d2.cli.training_parser`.
        trainer: the class that is going to train.

    Raises:
        UserError: something that the user can mend.
    """
    cfg, processes = checked_config(args, trainer), args.num_gpus * args.num_machines
    if cfg.DEBUG.ENABLED:
        use_debug_settings(cfg)
    folder, last = cfg.OUTPUT_DIR, last_checkpoint(cfg.OUTPUT_DIR) if args.resume else ""
    cfg = trainer.auto_scale_workers(cfg, processes)
    with tempfile.TemporaryDirectory(prefix="fpt_check_") as scratch:
        cfg.defrost()
        cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = scratch, last or cfg.MODEL.WEIGHTS
        cfg.SOLVER.IMS_PER_BATCH //= processes
        cfg.SOLVER.REFERENCE_WORLD_SIZE = 0
        cfg.freeze()
        rows = _evaluation(cfg, trainer) if args.eval_only else _training(cfg, trainer, processes, last)
        lines = [f"  {name:<14}{text}" for name, text in (*rows, ("output", folder))]
    what = "evaluate" if args.eval_only else "train"
    return "\n".join([f"All checks passed. Without --check this command is going to {what}:", *lines])


def _training(cfg: CfgNode, trainer: type[Trainer], processes: int, last: str) -> Rows:
    solver, batch = cfg.SOLVER, cfg.SOLVER.IMS_PER_BATCH
    images = yield from _datasets(cfg, cfg.DATASETS.TRAIN, is_train=True)
    seconds, losses, model = _measure_training(cfg, trainer)
    done = read_trainer(last)["trainer"]["iteration"] + 1 if last else 0
    left = max(0, solver.MAX_ITER - done)
    epochs, total = solver.MAX_ITER * batch * processes / images, _duration(seconds * left)
    shares = f", {batch} in each of {processes} processes" if processes > 1 else ""
    yield "schedule", f"{solver.MAX_ITER} iterations of {batch * processes} images{shares}: {epochs:.3g} epochs"
    yield "optimizer", f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g}, {solver.LR_SCHEDULER_NAME}"
    yield from _model(cfg, model)
    yield "losses", f"{', '.join(f'{loss:.3g}' for loss in losses)} (the first {len(losses)} iterations)"
    rest = f"for the {left} iterations that are left" if last else "in all"
    yield "time", f"{seconds:.3g} s an iteration, about {total} {rest}, without evaluations"
    yield "memory", f"{_peak_memory(cfg)} in each process"
    yield "checkpoints", f"every {solver.CHECKPOINT_PERIOD} iterations"
    if cfg.DATASETS.TEST:
        yield "evaluation", f"every {cfg.TEST.EVAL_PERIOD} iterations" if cfg.TEST.EVAL_PERIOD else "at the end"
        yield from _datasets(cfg, cfg.DATASETS.TEST, is_train=False)
    if last:
        over = "" if left else f", with nothing left to do: it is of iteration {done - 1}"
        yield "goes on from", f"{last}{over}"


def _evaluation(cfg: CfgNode, trainer: type[Trainer]) -> Rows:
    images = yield from _datasets(cfg, cfg.DATASETS.TEST, is_train=False)
    seconds, model = _measure_inference(cfg, trainer)
    yield from _model(cfg, model)
    yield "time", f"{seconds:.3g} s an image, about {_duration(seconds * images)} in one process"
    yield "memory", _peak_memory(cfg)


def _datasets(cfg: CfgNode, names: Sequence[str], *, is_train: bool) -> Generator[tuple[str, str], None, int]:
    """What is read of each data set; returns the number of images of all."""
    total = 0
    for name in names:
        filtered = is_train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        records = get_detection_dataset_dicts([name], filter_empty=filtered, check_consistency=False)
        total += len(records)
        metadata, objects = MetadataCatalog.get(name), sum(len(record.get("annotations", ())) for record in records)
        classes = metadata.get("thing_classes") or metadata.get("stuff_classes") or []
        counts = f"{len(records)} images" + f", {objects} objects" * (objects > 0) + f", {len(classes)} classes"
        yield ("train" if is_train else "test"), f"{name}: {counts} ({_list(classes)})"
    return total


def _list(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MOST_CLASSES], *["..."] * (len(names) > _MOST_CLASSES)])


def _model(cfg: CfgNode, model: nn.Module) -> Rows:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    total, trained = sum(size for size, _ in sizes), sum(size for size, is_trained in sizes if is_trained)
    of_them = f"{total / 1e6:.1f} million parameters, {trained / 1e6:.1f} of them trained"
    yield "model", f"{cfg.MODEL.META_ARCHITECTURE}, {cfg.MODEL.BACKBONE.NAME}: {of_them}, on {cfg.MODEL.DEVICE}"
    yield "weights", cfg.MODEL.WEIGHTS or "none: random ones"


def _measure_training(cfg: CfgNode, trainer: type[Trainer]) -> tuple[float, list[float], nn.Module]:
    """Seconds of an iteration, the losses, and the model."""
    run, losses = trainer(cfg), []

    def step(_: int) -> None:
        run.run_step()
        run.scheduler.step()
        losses.append(storage.latest()["total_loss"][0])

    run.resume_or_load(resume=False)
    with EventStorage() as storage:
        try:
            seconds = _median_time(step, range(min(MEASURED, cfg.SOLVER.MAX_ITER)))
        except FloatingPointError as error:
            raise ConfigError(
                f"The training diverges at once, {error}: lower SOLVER.BASE_LR, or see the data"
            ) from error
    return seconds, losses, without_ddp(run.model)


def _measure_inference(cfg: CfgNode, trainer: type[Trainer]) -> tuple[float, nn.Module]:
    """Seconds of an image, and the model."""
    model = trainer.load_trained(cfg)
    loader = trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    with inference_context(model), torch.no_grad():
        return _median_time(with_sliding_window(cfg, model), islice(loader, MEASURED)), model


def _median_time(step: Callable[[Any], Any], items: Iterable[Any]) -> float:
    """Of the steps after the first, in which memory is had and kernels are chosen."""
    times = []
    for item in items:
        _synchronize()
        start = time.perf_counter()
        step(item)
        _synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def _synchronize() -> None:
    """Wait for what GPUs have been given to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _duration(seconds: float) -> str:
    units = [(86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds")]
    size, unit = next(((size, unit) for size, unit in units if seconds >= 2 * size), units[-1])
    return f"{seconds / size:.0f} {unit}"


def _peak_memory(cfg: CfgNode) -> str:
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return f"{torch.cuda.max_memory_reserved() / 1024**3:.1f} GiB of the GPU"
    return f"{peak_memory() / 1024**3:.1f} GiB"
