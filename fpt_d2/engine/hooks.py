"""Hooks that a training gets by a key, and the one by which Ctrl-C and SIGTERM lose nothing."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..errors import ConfigError, Terminated
from ..signals import Requests, answer, give_back
from .checkpoint import BEST_MODEL, SafeCheckpointer
from .hardware import peak_memory
from .resumption import read_best

logger = logging.getLogger(__name__)

# Iterations between two moments at which several processes tell each other of an interruption: the steps between them
# pay nothing for it.
AGREEMENT_PERIOD = 10


class StopTraining(BaseException):
    """Ends a training regularly. Not an Exception, because the training loop reports those as failures."""


class BestCheckpointer(hooks.BestCheckpointer):
    """Detectron2's, which here also remembers the best value over a restart: it is kept in the file itself."""

    def __init__(self, eval_period: int, checkpointer: SafeCheckpointer, metric: str) -> None:
        """
        Args:
            eval_period: ``TEST.EVAL_PERIOD``.
            checkpointer: saves the model.
            metric: name in the event storage, e.g. ``"bbox/AP"``; higher is better.
        """
        # The base class calls save() of what it is given here.
        super().__init__(eval_period, self, metric, file_prefix=BEST_MODEL)
        self._file = checkpointer

    def save(self, name: str, **state: Any) -> None:
        value, _ = self.trainer.storage.latest()[self._val_metric]
        self._file.save(name, best={"metric": self._val_metric, "value": value}, **state)

    def before_train(self) -> None:
        path = os.path.join(self._file.save_dir, f"{BEST_MODEL}.pth")
        if not os.path.isfile(path):
            return
        saved = read_best(path)
        best = saved.get("best", {})
        if best.get("metric") == self._val_metric:
            self.best_metric, self.best_iter = best["value"], saved["iteration"]
            logger.info("The best %s so far: %.4f at iteration %d", self._val_metric, self.best_metric, self.best_iter)

    def _best_checking(self) -> None:
        if "/" not in self._val_metric or self._val_metric not in self.trainer.storage.latest():
            evaluated = ", ".join(flatten_results_dict(getattr(self.trainer, "_last_eval_results", {})))
            raise ConfigError(f"TEST.BEST_METRIC {self._val_metric!r} is none of what was evaluated: {evaluated}")
        super()._best_checking()


class EarlyStopping(HookBase):
    """End the training when the best metric has not risen in ``patience`` evaluations.

    The iteration at which this happens becomes the last: what every training does at its end is done.
    """

    def __init__(
        self, eval_period: int, checkpointer: SafeCheckpointer, best: BestCheckpointer | None, patience: int
    ) -> None:
        """
        Args:
            eval_period: ``TEST.EVAL_PERIOD``.
            checkpointer: saves ``model_final``.
            best: knows the best iteration; None in all but the main process.
            patience: number of evaluations.
        """
        self._period, self._checkpointer, self._best, self._patience = eval_period, checkpointer, best, patience
        self._stopped = False

    def before_train(self) -> None:
        if self._stopped:
            self._stop(self.trainer.start_iter)

    def after_step(self) -> None:
        next_iter = self.trainer.iter + 1
        if next_iter % self._period or next_iter == self.trainer.max_iter:
            return
        best_iter = self._best.best_iter if self._best is not None else None
        waited = 0 if best_iter is None else (self.trainer.iter - best_iter) // self._period
        if comm.all_gather(waited)[0] >= self._patience:
            self._stopped = True
            self._checkpointer.save("model_final", iteration=self.trainer.iter)
            self._stop(next_iter)

    def _stop(self, max_iter: int) -> None:
        self.trainer.max_iter = max_iter
        raise StopTraining(f"Stopped early: the best metric has not risen in {self._patience} evaluations")

    def state_dict(self) -> dict[str, int]:
        return {"stopped_with_patience": self._patience} if self._stopped else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        # With more patience than it was stopped with, a training goes on.
        self._stopped = state["stopped_with_patience"] >= self._patience


class SaveOnInterrupt(HookBase):
    """End the training on Ctrl-C, on SIGTERM and the like with a checkpoint of what is done; a second one ends it at
    once.

    A running step is finished first, since in its midst the weights are of two iterations. Several processes end after
    the same step, a multiple of :data:`AGREEMENT_PERIOD`, whichever of them was interrupted; at once is then what ends
    their parent, torchrun or srun.
    """

    def __init__(self, checkpointer: SafeCheckpointer) -> None:
        self._checkpointer = checkpointer
        self.signum = 0
        self._requests = Requests()
        self._in_step = False
        self._finished_iter: int | None = None
        self._handlers: dict[int, Any] = {}

    def before_train(self) -> None:
        self._handlers = answer(self._on_signal)

    def before_step(self) -> None:
        self._in_step = True

    def after_step(self) -> None:
        self._in_step = False
        self._finished_iter = self.trainer.iter
        # The last iteration needs no stop: the training ends, which saves it.
        if self.trainer.iter + 1 < self.trainer.max_iter and (signum := self._agreed_signal()):
            self.signum = signum
            raise Terminated(signum)

    def _agreed_signal(self) -> int:
        """The number of the signal to end by here, 0 for none."""
        if comm.get_world_size() == 1:
            return self.signum
        if (self.trainer.iter + 1) % AGREEMENT_PERIOD:
            return 0
        # Where the processes' gradients are summed, too.
        device = next(self.trainer.model.parameters()).device
        anywhere = torch.tensor(self.signum, device=device)
        torch.distributed.all_reduce(anywhere, torch.distributed.ReduceOp.MAX)
        return int(anywhere)

    def after_train(self) -> None:
        iteration = self._finished_iter
        try:
            if self.signum and not self._in_step and iteration == self.trainer.iter:
                self._checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        finally:  # not before, when an echo of the signal would end the saving
            give_back(self._handlers)

    def _on_signal(self, signum: int, frame: Any) -> None:
        if not (number := self._requests.note(signum)):
            return
        self.signum = self._requests.signum
        is_alone = comm.get_world_size() == 1  # several processes stop together, after a step
        if is_alone and (number > 1 or not self._in_step):
            raise Terminated(self.signum)
        if number == 1:
            when = "after this iteration" if is_alone else f"within {AGREEMENT_PERIOD} iterations"
            logger.warning("Interrupted: stopping %s (Ctrl-C again: at once)", when)


def put_memory(trainer: Any) -> None:
    """Put the peak of resident memory into the progress line, which has only that of GPUs otherwise."""
    trainer.storage.put_scalar("[metric]max_mem_gb", peak_memory() / 1024**3, smoothing_hint=False)
