"""A training that was stopped goes on as if it never had been: the same images, augmentations and losses.

Images and augmentations are those of :class:`fpt_d2.data.TrainLoader`, a function of seed, iteration and process. The
random numbers of the model are seeded likewise before each step. What else a step depends on is in the checkpoint.
"""

from __future__ import annotations

import logging
import os
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import HookBase, hooks
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from torch import Tensor

from ..checkpoint.files import read_weights
from ..data import TrainLoader
from ..data.random_state import seed_all
from .hooks import EarlyStopping
from .metrics import cut_metrics, written_names
from .resumption import last_checkpoint

logger = logging.getLogger(__name__)

# Iterations of which Detectron2 writes the median.
WINDOW = 20
# A scalar in the lines of those iterations whose evaluation was finished.
_EVALUATED = "evaluated"
_EVALUATIONS = (hooks.EvalHook, hooks.BestCheckpointer, EarlyStopping)
# Scalars of the process, as times are.
_OWN = ("eta_seconds", "[metric]max_mem_gb")


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
        if start >= (end := self.trainer.max_iter):
            done = f"the last checkpoint is of iteration {start - 1}, and the training ends after {end}"
            logger.warning("Nothing is left to do: %s iterations. A larger number lets it go on", done)
        if start > 0:
            self._say_what_differs(is_exact=isinstance(loader, TrainLoader))
        if not comm.is_main_process():  # which alone has losses and metrics in its storage
            return
        for name, (is_smoothed, values) in self._saved.get("history", {}).items():
            for value, iteration in values:
                self.trainer.storage.put_scalar(name, value, smoothing_hint=is_smoothed, cur_iter=iteration)
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
        self._saved, normalizers = state, state.get("normalizers", [])
        if len(normalizers) == comm.get_world_size():
            for model, value in zip(self._dense_detectors, normalizers[comm.get_rank()]):
                model.loss_normalizer = value


def _precise_bn_loaders(trainer: Any) -> list[tuple[Any, int]]:
    """The loaders by which Detectron2 measures BatchNorm's statistics, and how many batches of each are used up."""
    precise = [hook for hook in trainer._hooks if isinstance(hook, hooks.PreciseBN) and not hook._disabled]
    measured = [trainer.start_iter // hook._period if hook._period > 0 else 0 for hook in precise]
    return [(hook._data_loader, times * hook._num_iter) for hook, times in zip(precise, measured)]


def _recent(trainer: Any) -> dict[str, tuple[bool, list[tuple[float, int]]]]:
    """What the last iterations have put into the event storage: by name whether it is smoothed, and the values."""
    storage = getattr(trainer, "storage", None)
    if storage is None:
        return {}
    # Times are of this process, not of the one that goes on.
    names = [name for name, (_, iteration) in storage.latest().items() if iteration > trainer.iter - WINDOW]
    names = [name for name in names if "time" not in name and name not in _OWN]
    return {name: (storage.smoothing_hints()[name], storage.history(name).values()[-WINDOW:]) for name in names}


class UnfinishedStep(HookBase):
    """Makes up for the end of a step that a kill or Ctrl-C has cut off after its checkpoint: evaluation and metrics.

    After the hooks that evaluate, before the writers.
    """

    def __init__(self, eval_period: int, write_period: int, folder: str) -> None:
        """
        Args:
            eval_period: iterations between evaluations; 0 for none.
            write_period: of the writers.
            folder: the one with ``metrics.json``.
        """
        self._eval_period, self._write_period = eval_period, write_period
        self._folder, self._path = folder, os.path.join(folder, "metrics.json")

    def before_train(self) -> None:
        start = self.trainer.start_iter
        # A training that has come to its end was evaluated there, also where it is to go on now.
        has_ended = os.path.basename(last_checkpoint(self._folder)) == "model_final.pth"
        is_over = has_ended or start >= self.trainer.max_iter
        if start == 0:
            return
        self._forget_written()
        written: set[str] = comm.all_gather(written_names(self._path, [start - 1])[start - 1])[0]
        is_written = "total_loss" in written or start % self._write_period != 0
        if not is_over and not (is_written and (_EVALUATED in written or not self._is_evaluated_after(start))):
            self._finish(start - 1)

    def after_step(self) -> None:
        if self._is_evaluated_after(self.trainer.iter + 1):
            self.trainer.storage.put_scalar(_EVALUATED, 1, smoothing_hint=False)

    def _is_evaluated_after(self, steps: int) -> bool:
        return self._eval_period > 0 and steps % self._eval_period == 0 and steps != self.trainer.max_iter

    def _forget_written(self) -> None:
        """Leave to the medians what the checkpoint has put into the event storage and is in metrics.json."""
        latest = self.trainer.storage.latest()
        written = written_names(self._path, {iteration for _, iteration in latest.values()})
        for name, (_, iteration) in list(latest.items()):
            if name in written[iteration]:
                del latest[name]

    def _finish(self, iteration: int) -> None:
        trainer = self.trainer
        logger.info("Iteration %d was not finished: what is left of it is done now", iteration)
        trainer.iter = trainer.storage.iter = iteration
        for hook in trainer._hooks:
            if isinstance(hook, (*_EVALUATIONS, UnfinishedStep, hooks.PeriodicWriter)):
                hook.after_step()
        trainer.iter = trainer.storage.iter = iteration + 1
