"""A training that was stopped goes on as if it never had been: the same images, augmentations and losses.

Images and augmentations are those of :class:`fpt_d2.data.TrainLoader`, a function of seed, iteration and process. The
random numbers of the model are seeded likewise before each step. What else a step depends on is in the checkpoint.
"""

from __future__ import annotations

import logging
import os
import re
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, hooks
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

from ..checkpoint.files import read_weights
from ..data import TrainLoader
from ..data.random_state import seed_all
from .checks import last_checkpoint

logger = logging.getLogger(__name__)

# Iterations of which Detectron2 writes the median.
_WINDOW = 20


def training_seed(seed: int, folder: str) -> int:
    """The seed of a training: ``seed``, or if negative that of the last checkpoint in ``folder``, or else a new one.

    To be called by all processes, which get the same. Raises WeightsError if the checkpoint cannot be read.
    """
    if seed >= 0:
        return seed
    new, last = comm.shared_random_seed(), last_checkpoint(folder)
    saved = _saved_state(read_weights(last)) if last and comm.is_main_process() else {}
    known: int = comm.all_gather(saved.get("course", {}).get("seed", new))[0]
    return known


def _saved_state(checkpoint: Any) -> dict[str, Any]:
    trainer = checkpoint.get("trainer", {}) if isinstance(checkpoint, dict) else {}
    state: dict[str, Any] = trainer.get("hooks", {}).get(ExactResumption.__qualname__, {})
    return state


class ExactResumption(HookBase):
    """Makes each step a function of the seed, the checkpoint and the iteration. Before all hooks that save."""

    def __init__(self, seed: int, images_per_batch: int, folder: str) -> None:
        """
        Args:
            seed: not negative, the same in all processes.
            images_per_batch: of all processes together.
            folder: the one with ``metrics.json``.
        """
        self._course = {"seed": seed, "processes": comm.get_world_size(), "images per batch": images_per_batch}
        self._folder = folder
        self._saved: dict[str, Any] = {}
        self._normalizers: list[Tensor] = []

    def before_train(self) -> None:
        start, loader = self.trainer.start_iter, self.trainer.data_loader
        for each, first in [(loader, start), *_precise_bn_loaders(self.trainer)]:
            if isinstance(each, TrainLoader):
                each.start = first
        if isinstance(loader, TrainLoader):
            self._course["images"] = loader.num_records
        if start > 0:
            self._say_what_differs(is_exact=isinstance(loader, TrainLoader))
        _put_recent(self.trainer.storage, self._saved.get("history", {}))
        if comm.is_main_process():
            cut_metrics(os.path.join(self._folder, "metrics.json"), start)

    def _say_what_differs(self, is_exact: bool) -> None:
        old = self._saved.get("course")
        if not is_exact:
            logger.info("The training loader is not this project's: its images start again from the first")
        elif old is None:
            logger.info("The checkpoint does not have the seed of its training: images that were seen may come again")
        elif old != self._course:
            changes = [f"{key} {old.get(key)}, now {new}" for key, new in self._course.items() if new != old.get(key)]
            logger.info("From here on the images come in another order than before: %s", "; ".join(changes))

    def before_step(self) -> None:
        seed_all(self._course["seed"], self.trainer.iter, comm.get_rank())

    def after_step(self) -> None:
        """Let the main process know the normalizers of all: each has its own, and only the main one saves."""
        values = [model.loss_normalizer for model in self._dense_detectors if hasattr(model, "loss_normalizer")]
        if not values:
            return
        mine = torch.tensor(values, dtype=torch.float64, device=next(self.trainer.model.parameters()).device)
        self._normalizers = [mine.clone() for _ in range(comm.get_world_size())]
        if len(self._normalizers) > 1:
            dist.all_gather(self._normalizers, mine)

    @cached_property
    def _dense_detectors(self) -> list[DenseDetector]:
        """The models whose losses are divided by a running mean that is not among their buffers."""
        return [module for module in self.trainer.model.modules() if isinstance(module, DenseDetector)]

    def state_dict(self) -> dict[str, Any]:
        normalizers = [values.tolist() for values in self._normalizers]
        return {"course": dict(self._course), "history": _recent(self.trainer), "normalizers": normalizers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._saved = state
        if len(state["normalizers"]) == comm.get_world_size():
            for model, value in zip(self._dense_detectors, state["normalizers"][comm.get_rank()]):
                model.loss_normalizer = value


def _precise_bn_loaders(trainer: Any) -> list[tuple[Any, int]]:
    """The loaders by which Detectron2 measures BatchNorm's statistics, and how many batches of each are used up."""
    precise = [hook for hook in trainer._hooks if isinstance(hook, hooks.PreciseBN) and not hook._disabled]
    measured = [trainer.start_iter // hook._period if hook._period > 0 else 0 for hook in precise]
    return [(hook._data_loader, times * hook._num_iter) for hook, times in zip(precise, measured)]


def _recent(trainer: Any) -> dict[str, list[tuple[float, int]]]:
    """The values of the last iterations, of whose median the next lines of the log and of metrics.json are."""
    storage = getattr(trainer, "storage", None)
    if storage is None:
        return {}
    # Times are those of another process.
    names = [name for name, is_noisy in storage.smoothing_hints().items() if is_noisy and "time" not in name]
    return {name: storage.history(name).values()[-_WINDOW:] for name in names}


def _put_recent(storage: EventStorage, history: dict[str, list[tuple[float, int]]]) -> None:
    for name, values in history.items():
        for value, iteration in values:
            storage.put_scalar(name, value, cur_iter=iteration)
        storage.latest().pop(name)  # it is written already


def cut_metrics(path: str, start: int) -> None:
    """Cut off the lines that a killed training has written of iterations from ``start`` on, which come again.

    A line that it has written in part is cut off too. What was written by the evaluation at an end stays.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        for line in iter(file.readline, b""):
            if not line.endswith(b"\n") or (start > 0 and _is_step_from(start, line)):
                file.seek(-len(line), os.SEEK_CUR)
                break
        file.truncate()


def _is_step_from(start: int, line: bytes) -> bool:
    iteration = re.search(rb'"iteration": (\d+)', line)
    return iteration is not None and int(iteration[1]) >= start and b'"total_loss"' in line
