"""What Detectron2's own tool for lazy configs lacks: checks before training, safe saves, CPU processes."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from typing import Any

from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import FPTCheckpointer
from ..data.random_state import random_numbers
from .checkpoint import SafeCheckpointer
from .cluster import is_checked
from .exact_resumption import ExactResumption, UnfinishedStep, training_seed
from .failures import in_sentences
from .hooks import SaveOnInterrupt
from .lazy_checks import check_lazy_config
from .lazy_config import read_lazy_config
from .lazy_parts import BATCH_SIZE, build_optimizer, build_schedule, build_train_loader
from .lazy_words import in_lazy_words
from .lock import unlock
from .writers import FirstProgress, named_writers, start_logging

__all__ = ["check_lazy_config", "read_lazy_config", "run_lazy"]


@in_lazy_words()
def run_lazy(args: argparse.Namespace) -> OrderedDict[str, Any] | None:
    """Train or evaluate: the work of one process. Raises UserError for what the user can mend."""
    if not is_checked(args):
        check_lazy_config(args)
    cfg = read_lazy_config(args.config_file, args.opts)
    with in_sentences(cfg.train.output_dir):
        start_logging(cfg.train.output_dir, verbose=cfg.train.verbose)
        default_setup(cfg, args)
    on_cpu = {} if cfg.train.device.startswith("cuda") else {"device_ids": None}
    model = create_ddp_model(instantiate(cfg.model).to(cfg.train.device), **cfg.train.ddp, **on_cpu)
    if args.eval_only:
        FPTCheckpointer(model, whole=True).load(cfg.train.init_checkpoint)
        return _evaluate(cfg, model)
    _train(cfg, model, resume=args.resume)
    return None


def _evaluate(cfg: DictConfig, model: nn.Module) -> OrderedDict[str, Any]:
    """Evaluate with ``dataloader.evaluator`` on ``dataloader.test``; nothing where the config has none."""
    if cfg.dataloader.get("evaluator") is None:
        return OrderedDict()
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results: OrderedDict[str, Any] = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _train(cfg: DictConfig, model: nn.Module, *, resume: bool) -> None:
    train, saving, writing = cfg.train, None, None
    seed = training_seed(train.get("seed", -1), train.output_dir)
    with random_numbers(seed):
        loader, optimizer = build_train_loader(cfg), build_optimizer(cfg, model)
    trainer = (AMPTrainer if train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    batch_size = OmegaConf.select(cfg, BATCH_SIZE)
    trainer.register_hooks([ExactResumption(seed, batch_size, train.output_dir)])  # has a part in the checkpoint
    is_main = comm.is_main_process()
    checkpointer = SafeCheckpointer(model, train.output_dir, save_to_disk=is_main, trainer=trainer)
    resumed = resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(train.init_checkpoint, resume=resume)
    if is_main:
        saving = hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer)
        writing = hooks.PeriodicWriter(
            named_writers(default_writers(train.output_dir, train.max_iter), train.output_dir), period=train.log_period
        )
    evaluation = hooks.EvalHook(train.eval_period, lambda: _evaluate(cfg, model))
    schedule = hooks.LRScheduler(scheduler=build_schedule(cfg))
    interrupt = SaveOnInterrupt(checkpointer)
    unfinished = UnfinishedStep(train.eval_period, train.log_period, train.output_dir)
    first = FirstProgress(train.log_period) if is_main else None
    in_order = [hooks.IterationTimer(), schedule, interrupt, saving, evaluation, unfinished, first, writing]
    trainer.register_hooks(in_order)
    try:
        with in_sentences(train.output_dir, trainer=trainer):
            trainer.train(trainer.iter + 1 if resumed else 0, train.max_iter)
    finally:
        unlock(train.output_dir)
