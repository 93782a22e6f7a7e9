"""What Detectron2's own tool for lazy configs lacks: checks before training, safe saves, CPU processes."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.data import build_detection_train_loader
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..checkpoint import FPTCheckpointer, find_weights
from ..config_path import did_you_mean
from ..data import InstanceMapper, check_instance_datasets, resumable_loader
from ..data.random_state import random_numbers
from ..errors import ConfigError, require
from .checkpoint import SafeCheckpointer
from .cluster import check_processes, gpus_seen, is_checked, is_dry
from .exact_resumption import ExactResumption, UnfinishedStep, training_seed
from .failures import in_sentences
from .hardware import check_device, check_precision
from .hooks import SaveOnInterrupt
from .lock import lock, unlock
from .optimizer import make_resumable
from .output_folder import check_names, check_output_dir
from .resumption import check_last, finish_tag, last_checkpoint
from .writers import named_writers, start_logging


def run_lazy(args: argparse.Namespace) -> OrderedDict[str, Any] | None:
    """Train or evaluate: the work of one process. Raises UserError for what the user can mend."""
    if not is_checked(args):
        check_lazy_config(args)
    cfg = read_lazy_config(args.config_file, args.opts)
    with in_sentences(cfg.train.output_dir):
        start_logging(cfg.train.output_dir)
        default_setup(cfg, args)
    on_cpu = {} if cfg.train.device.startswith("cuda") else {"device_ids": None}
    model = create_ddp_model(instantiate(cfg.model).to(cfg.train.device), **cfg.train.ddp, **on_cpu)
    if args.eval_only:
        FPTCheckpointer(model, whole=True).load(cfg.train.init_checkpoint)
        return _evaluate(cfg, model)
    _train(cfg, model, resume=args.resume)
    return None


def read_lazy_config(config_file: str, opts: Sequence[str] = ()) -> DictConfig:
    """Read a lazy config and the ``key=value`` pairs that override it. Errors in the Python of the file are its own.

    Raises:
        ConfigError: no such file, a part that is missing, or a pair that does not fit.
    """
    path = Path(config_file)
    hint = did_you_mean(config_file, map(str, Path("configs").rglob("*.py"))) or ": train_net.py takes .yaml files"
    require(path.suffix == ".py" and path.is_file(), f"There is no lazy config (a .py file) {config_file}{hint}")
    cfg: DictConfig = LazyConfig.load(config_file)
    missing = [name for name in ("model", "dataloader", "optimizer", "lr_multiplier", "train") if name not in cfg]
    require(not missing, f"The config file {config_file} does not have {', '.join(missing)}")
    for split in ("train", "test"):
        target = str(OmegaConf.select(cfg, f"dataloader.{split}.mapper._target_"))
        if target.rstrip("'>").endswith(".DatasetMapper"):
            cfg.dataloader[split].mapper._target_ = InstanceMapper  # which reads images of more than 8 bits
    cfg.train.setdefault("weights_allow_pickle", True)  # as MODEL.WEIGHTS_ALLOW_PICKLE; Detectron2 has no such key
    for pair in opts:
        key, equals, _ = pair.partition("=")
        require(bool(equals), f"The command line is wrong: {pair!r} is not key=value, as train.max_iter=100 is")
        # Detectron2 adds a key that is not there, so that a misspelled one has no effect.
        is_known = OmegaConf.select(cfg, key, default=missing) is not missing
        require(is_known, f"The command line is wrong: there is no {key} in the config")
        try:
            LazyConfig.apply_overrides(cfg, [pair])
        except Exception as error:  # of hydra's parser, which not everyone has
            raise ConfigError(f"The command line is wrong: {pair!r} ({' '.join(str(error).split())})") from error
    return cfg


def check_lazy_config(args: argparse.Namespace) -> str:
    """Check that what the command line asks for can be done here, and return the device. Raises UserError."""
    cfg = read_lazy_config(args.config_file, args.opts)
    train, weights = cfg.train, cfg.train.init_checkpoint
    check_processes(args)
    check_device(train.device, gpus_seen(args), key="train.device", on_cpu="train.device=cpu")
    check_precision(train.device, train.amp.enabled and not args.eval_only, key="train.amp.enabled")
    require(weights or not args.eval_only, "--eval-only needs a trained model: add train.init_checkpoint=FILE")
    if weights and not (args.resume and last_checkpoint(train.output_dir)):
        find_weights(weights, allow_pickle=train.weights_allow_pickle, key="train.weights_allow_pickle")
    _check_datasets(cfg, eval_only=args.eval_only)
    if not args.eval_only:
        first = args.machine_rank == 0
        check_output_dir(
            train.output_dir, resume=args.resume, key="train.output_dir", make=not is_dry(args), is_first=first
        )
        if args.resume:
            if not is_dry(args):
                finish_tag(train.output_dir)
            check_last(train.output_dir)
        if first and not is_dry(args):
            lock(train.output_dir, key="train.output_dir")
    else:
        check_names(train.output_dir, key="train.output_dir")
    return str(train.device)


def _check_datasets(cfg: DictConfig, *, eval_only: bool) -> None:
    """The checks of the data, as far as the config is written in the way of Detectron2's own."""
    heads, mapper = cfg.model.get("roi_heads") or {}, OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    key = "model.roi_heads.num_classes" if heads else "model.num_classes"
    is_known = heads or str(cfg.model.get("_target_", "")).rstrip("'>").endswith(("FCOS", "RetinaNet"))
    train, test = (OmegaConf.select(cfg, f"dataloader.{split}.dataset.names") or [] for split in ("train", "test"))
    check_instance_datasets(
        [] if eval_only else [train] if isinstance(train, str) else train,
        [] if "evaluator" not in cfg.dataloader else [test] if isinstance(test, str) else test,
        num_classes=OmegaConf.select(cfg, key) if is_known else None,
        set_num_classes=f"{key}=",
        mask_format=mapper.get("instance_mask_format", "polygon") if heads.get("mask_head") else None,
        keypoints=bool(heads.get("keypoint_head")),
    )


def _evaluate(cfg: DictConfig, model: nn.Module) -> OrderedDict[str, Any]:
    """Evaluate with ``dataloader.evaluator`` on ``dataloader.test``; nothing where the config has none."""
    if "evaluator" not in cfg.dataloader:
        return OrderedDict()
    loader, evaluator = instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    results: OrderedDict[str, Any] = inference_on_dataset(model, loader, evaluator)
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _build_train_loader(parts: DictConfig) -> Any:
    """``dataloader.train``; in place of Detectron2's own one that is exactly resumable."""
    target = locate(parts._target_) if isinstance(parts._target_, str) else parts._target_
    if target is not build_detection_train_loader:
        return instantiate(parts)
    return resumable_loader(**{str(name): instantiate(value) for name, value in parts.items() if name != "_target_"})


def _train(cfg: DictConfig, model: nn.Module, *, resume: bool) -> None:
    train, saving, writing = cfg.train, None, None
    cfg.optimizer.params.model = model
    seed = training_seed(train.get("seed", -1), train.output_dir)
    with random_numbers(seed):
        loader, optimizer = _build_train_loader(cfg.dataloader.train), instantiate(cfg.optimizer)
    make_resumable(optimizer, [], key="optimizer")
    trainer = (AMPTrainer if train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    batch_size = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
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
    schedule = hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))
    interrupt = SaveOnInterrupt(checkpointer)
    unfinished = UnfinishedStep(train.eval_period, train.log_period, train.output_dir)
    trainer.register_hooks([hooks.IterationTimer(), schedule, interrupt, saving, evaluation, unfinished, writing])
    try:
        with in_sentences(train.output_dir, trainer=trainer):
            trainer.train(trainer.iter + 1 if resumed else 0, train.max_iter)
    finally:
        unlock(train.output_dir)
