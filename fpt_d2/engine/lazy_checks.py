"""Checks of a lazy config before anything long begins, those of YAML configs as far as it says the same."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from detectron2.engine.hooks import PeriodicCheckpointer
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from ..checkpoint import find_weights
from ..config_path import did_you_mean
from ..data import check_instance_datasets
from ..errors import require
from .cluster import check_processes, gpus_seen, is_dry
from .hardware import check_cityscapes_sets, check_device, check_precision, device_type
from .lazy_config import read_lazy_config
from .lazy_parts import check_lazy_parts, dataset_names
from .lazy_words import in_lazy_words
from .lock import lock
from .output_folder import check_names, check_output_dir, check_room
from .resumption import check_last, finish_tag, last_checkpoint
from .resumption_checks import check_same_model, check_same_optimizer
from .training_checks import check_norms


@in_lazy_words()
def check_lazy_config(args: argparse.Namespace) -> str:
    """Check that what the command line asks for can be done here, and return the device. Raises UserError."""
    cfg = read_lazy_config(args.config_file, args.opts)
    train = cfg.train
    check_processes(args)
    train_sets = [] if args.eval_only else dataset_names(cfg, "train")
    check_cityscapes_sets(train_sets, dataset_names(cfg, "test"), args.num_machines)
    check_device(train.device, gpus_seen(args), key="train.device", on_cpu="train.device=cpu")
    check_precision(train.device, train.amp.get("enabled", False) and not args.eval_only, key="train.amp.enabled")
    _check_options(train)
    _check_weights(cfg, args)
    if cfg.dataloader.get("evaluator") is not None:
        has_test = OmegaConf.is_dict(cfg.dataloader.get("test")) and "_target_" in cfg.dataloader.test
        require(has_test, "dataloader.evaluator needs images: write dataloader.test, or leave the evaluator out")
    model, optimizer = check_lazy_parts(cfg, args)
    if not args.eval_only and device_type(train.device) == "cpu":
        check_norms(model, args.num_gpus * args.num_machines)
    _check_datasets(cfg, eval_only=args.eval_only)
    if args.eval_only:
        check_names(train.output_dir, key="train.output_dir")
    else:
        _check_folder(train.output_dir, args, model, optimizer)
    return str(train.device)


def _check_options(train: DictConfig) -> None:
    """The names of what goes to constructors that only a training has."""
    ddp = {*inspect.signature(nn.parallel.DistributedDataParallel).parameters, "fp16_compression"} - {"module"}
    saving = {*inspect.signature(PeriodicCheckpointer.__init__).parameters} - {"self", "checkpointer"}
    for section, known in {"ddp": ddp, "checkpointer": saving, "amp": {"enabled"}}.items():
        for name in train[section]:
            require(name in known, f"train.{section}.{name} is not known{did_you_mean(str(name), known)}")
    require("period" in train.checkpointer, "train.checkpointer does not have period, iterations between checkpoints")


def _check_weights(cfg: DictConfig, args: argparse.Namespace) -> None:
    train, weights = cfg.train, cfg.train.init_checkpoint
    require(weights or not args.eval_only, "--eval-only needs a trained model: add train.init_checkpoint=FILE")
    evaluates = cfg.dataloader.get("evaluator") is not None
    require(evaluates or not args.eval_only, "--eval-only needs dataloader.evaluator, which this config does not have")
    if weights and not (args.resume and not args.eval_only and last_checkpoint(train.output_dir)):
        find_weights(weights, allow_pickle=train.weights_allow_pickle, key="train.weights_allow_pickle")


def _check_folder(folder: str, args: argparse.Namespace, model: nn.Module | None, optimizer: Optimizer | None) -> None:
    first, is_real = args.machine_rank == 0, not is_dry(args)
    check_output_dir(folder, resume=args.resume, key="train.output_dir", make=is_real, is_first=first)
    if args.resume:
        if is_real:
            finish_tag(folder)
        if saved := check_last(folder):
            _check_resumption(saved, folder, model, optimizer)
    if is_real:
        check_room(folder, model)
        if first:
            lock(folder, key="train.output_dir")


def _check_resumption(saved: dict[str, Any], folder: str, model: nn.Module | None, optimizer: Optimizer | None) -> None:
    if optimizer is not None and "optimizer" in saved["trainer"]:
        optimizer.load_state_dict(saved["trainer"]["optimizer"])  # without memory, as the model is
    if model is not None:
        check_same_model(saved["model"], model, folder)
    if optimizer is not None:
        check_same_optimizer(optimizer, folder)


def _check_datasets(cfg: DictConfig, *, eval_only: bool) -> None:
    """The checks of the data, as far as the config is written in the way of Detectron2's own."""
    heads, mapper = cfg.model.get("roi_heads") or {}, OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    key = "model.roi_heads.num_classes" if heads else "model.num_classes"
    is_known = heads or str(cfg.model.get("_target_", "")).rstrip("'>").endswith(("FCOS", "RetinaNet"))
    check_instance_datasets(
        [] if eval_only else dataset_names(cfg, "train"),
        dataset_names(cfg, "test") if cfg.dataloader.get("evaluator") is not None else [],
        num_classes=OmegaConf.select(cfg, key) if is_known else None,
        set_num_classes=f"{key}=",
        mask_format=mapper.get("instance_mask_format", "polygon") if heads.get("mask_head") else None,
        keypoints=bool(heads.get("keypoint_head")),
    )
