"""Detectron2's trainer with the evaluators of this project and what its config keys ask for."""

from __future__ import annotations

import json
import logging
import math
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.solver import build_lr_scheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn

from ..checkpoint import FPTCheckpointer
from ..data import InstanceMapper, build_train_loader
from ..data.random_state import random_numbers
from ..evaluation import build_evaluator
from .attention_log import AttentionLog
from .checkpoint import SafeCheckpointer
from .exact_resumption import WINDOW, ExactResumption, UnfinishedStep, training_seed
from .failures import in_sentences, writing
from .hooks import BestCheckpointer, EarlyStopping, SaveOnInterrupt, StopTraining, put_memory
from .inference import names_of_classes, tta_config, with_sliding_window, with_tta
from .lock import unlock
from .metrics_checks import check_evaluation
from .optimizer import build_optimizer
from .validation import put_predictions, validation_losses
from .writers import FirstProgress, named_writers

logger = logging.getLogger(__name__)

# What WarmupPolyLR saves in a checkpoint, though it is the config's.
_SCHEDULE = ("max_iters", "warmup_factor", "warmup_iters", "warmup_method", "power", "constant_ending")
# By task and metric.
Results: TypeAlias = "OrderedDict[str, Any]"


class Trainer(DefaultTrainer):
    """Detectron2's DefaultTrainer, which here also trains in several processes on the CPU and can be killed anytime."""

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: frozen, as :func:`fpt_d2.engine.setup` returns it.
        """
        # Not DefaultTrainer's constructor: it gives DDP a GPU for a model on the CPU too, and has a fixed checkpointer.
        super(DefaultTrainer, self).__init__()
        # A trainer of one's own is not known before. Data sets of debug mode get their metadata as they are loaded.
        if not cfg.DEBUG.ENABLED:
            check_evaluation(cfg, type(self))
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.seed = training_seed(cfg.SEED, cfg.OUTPUT_DIR)
        with random_numbers(self.seed):
            loader = self.build_train_loader(cfg)
        on_cpu = {"device_ids": None} if cfg.MODEL.DEVICE == "cpu" else {}
        model = create_ddp_model(model, broadcast_buffers=False, **on_cpu)
        step_trainer = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step_trainer(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        saving = {"save_to_disk": comm.is_main_process() and not cfg.DEBUG.ENABLED, "input_format": cfg.INPUT.FORMAT}
        self.checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR, **saving, trainer=weakref.proxy(self))
        self.checkpointer.classes = names_of_classes(cfg.DATASETS.TRAIN)
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        with random_numbers(self.seed):  # the loader of TEST.PRECISE_BN
            self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[HookBase]:
        """Detectron2's hooks and ours among them, the writers after all that have something to write."""
        test, period = self.cfg.TEST, self.cfg.TEST.EVAL_PERIOD
        ret: list[HookBase] = super().build_hooks()
        # After the scheduler's, so that what is saved has its step.
        ret.insert(2, SaveOnInterrupt(self.checkpointer))
        if not torch.cuda.is_available():
            ret.insert(2, hooks.CallbackHook(after_step=put_memory))
        if self.cfg.MODEL.FPT.LOG_ATTENTION and comm.is_main_process():
            ret.insert(1, AttentionLog())  # before the evaluations, which are not measured
        last = [FirstProgress(), ret.pop()] if comm.is_main_process() else []
        if last and not self.cfg.DEBUG.ENABLED:
            last.append(hooks.CallbackHook(after_train=_plot_curves))
        if test.LOSS:
            ret.append(hooks.EvalHook(period, lambda: {"validation": validation_losses(self.cfg, self.model)}))
        if test.VIS_IMAGES > 0:
            ret.append(hooks.EvalHook(period, lambda: put_predictions(self.cfg, self.model)))
        if test.AUG.ENABLED:
            ret.append(hooks.EvalHook(0, lambda: self.test_with_TTA(self.cfg, self.model)))
        best = None
        if test.BEST_METRIC and comm.is_main_process():
            best = BestCheckpointer(period, self.checkpointer, test.BEST_METRIC)
            ret.append(best)
        if test.PATIENCE > 0:
            ret.append(EarlyStopping(period, self.checkpointer, best, test.PATIENCE))
        exact = ExactResumption(self.seed, self.cfg.SOLVER.IMS_PER_BATCH, self.cfg.OUTPUT_DIR)
        return [exact, *ret, UnfinishedStep(period, WINDOW, self.cfg.OUTPUT_DIR), *last]

    def train(self) -> Results | None:
        """Train from ``start_iter`` to ``max_iter`` or until stopped early; an end is evaluated and verified."""
        results: Results | None
        try:
            with in_sentences(self.cfg.OUTPUT_DIR, trainer=self):
                results = super().train()
        except StopTraining as reason:
            logger.info("%s", reason)
            results = self._last_eval_results
            if comm.is_main_process():
                verify_results(self.cfg, results)
        finally:
            unlock(self.cfg.OUTPUT_DIR)
        return results

    def build_writers(self) -> list[EventWriter]:
        return named_writers(super().build_writers(), self.cfg.OUTPUT_DIR)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        schedule = {key: value for key, value in vars(self.scheduler).items() if key in _SCHEDULE}
        steps = state_dict["_trainer"]
        if isinstance(self._trainer, AMPTrainer) and "grad_scaler" not in steps:
            logger.info("The checkpoint is of a training without mixed precision, whose scale begins anew")
            steps = {**steps, "grad_scaler": self._trainer.grad_scaler.state_dict()}
        super().load_state_dict({**state_dict, "_trainer": steps})
        vars(self.scheduler).update(schedule)  # of this config, which may train for longer
        # Those of a checkpoint are of the groups that its optimizer had.
        self.scheduler.base_lrs = [group["initial_lr"] for group in self._trainer.optimizer.param_groups]

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Detectron2's schedules and, with ``SOLVER.LR_SCHEDULER_NAME WarmupPolyLR``, its DeepLab project's."""
        build = build_lr_scheduler
        if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR":
            from detectron2.projects import deeplab

            build = deeplab.build_lr_scheduler
        scheduler: torch.optim.lr_scheduler.LRScheduler = build(cfg, optimizer)
        return scheduler

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Iterable[list[dict[str, Any]]]:
        mapper = InstanceMapper(cfg, is_train=False)
        loader: Iterable[list[dict[str, Any]]] = build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        return loader

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def evaluate(cls, cfg: CfgNode, *, resume: bool) -> Results:
        """Evaluate the trained model of ``cfg``, or with ``resume`` the last checkpoint in its ``OUTPUT_DIR``.

        The results are verified, and written to ``OUTPUT_DIR/evaluation.json``.

        Raises:
            WeightsError: the weights are not those of the whole model.
        """
        if not cfg.DEBUG.ENABLED:
            check_evaluation(cfg, cls, is_eval=True)
        model = cls.load_trained(cfg, resume=resume)
        with in_sentences(cfg.OUTPUT_DIR):
            results = cls.test(cfg, model)
            if cfg.TEST.AUG.ENABLED:
                results.update(cls.test_with_TTA(cfg, model))
            if comm.is_main_process():
                text = json.dumps(_without_nan(results), indent=2, allow_nan=False)
                with writing(path := os.path.join(cfg.OUTPUT_DIR, "evaluation.json")):
                    Path(path).write_text(text + "\n", encoding="utf-8")
                verify_results(cfg, results)
        return results

    @classmethod
    def load_trained(cls, cfg: CfgNode, *, resume: bool = False) -> nn.Module:
        """The model of ``cfg`` with its trained weights, as :meth:`evaluate` says. Raises WeightsError as that does."""
        model: nn.Module = cls.build_model(cfg)
        checkpointer = FPTCheckpointer(model, cfg.OUTPUT_DIR, whole=True, input_format=cfg.INPUT.FORMAT)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return model

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None) -> Results:
        """Evaluate on ``DATASETS.TEST``; semantic segmentation in windows where ``TEST.SLIDING_WINDOW`` says so."""
        results: Results = super().test(cfg, with_sliding_window(cfg, model), evaluators)
        return results

    @classmethod
    def test_with_TTA(cls, cfg: CfgNode, model: nn.Module) -> Results:
        """As :meth:`test`, with test-time augmentation; the results' names end in ``_TTA``."""
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(tta_config(cfg), with_tta(cfg, model), evaluators)
        return OrderedDict((f"{task}_TTA", metrics) for task, metrics in results.items())


def _plot_curves(trainer: Trainer) -> None:
    from ..visualization import plot_learning_curves  # matplotlib, which a training need not wait for

    folder = trainer.cfg.OUTPUT_DIR
    try:
        plot_learning_curves(os.path.join(folder, "metrics.json"), os.path.join(folder, "learning_curves.png"))
    except ValueError as reason:  # ended before anything was logged
        logger.info("No learning curves: %s", reason)


def _without_nan(results: Any) -> Any:
    """``results`` with None, which JSON has, for NaN: the AP of a class or size that the data set lacks."""
    if isinstance(results, dict):
        return {key: _without_nan(value) for key, value in results.items()}
    return None if isinstance(results, float) and math.isnan(results) else results
