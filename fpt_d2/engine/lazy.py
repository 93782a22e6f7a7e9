"""Training and evaluation by a lazy config (Detectron2's configs in Python), with this project's checkpoints."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import AMPTrainer, SimpleTrainer, create_ddp_model, default_setup, default_writers, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer, find_weights
from fpt_d2.data import check_instance_datasets

from .checkpoint import SafeCheckpointer
from .checks import check_device, check_output_dir
from .defaults import ConfigError, did_you_mean
from .hooks import SaveOnInterrupt

# What Detectron2's lazy configs for training have.
_PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def setup_lazy(args: argparse.Namespace) -> DictConfig:
    """Read and check a lazy config, and set this process up as Detectron2 does: logging, seed, folder of the output.

    Args:
        args: of Detectron2's ``default_argument_parser``; its ``opts`` are ``key=value`` pairs.

    Raises:
        ConfigError, DatasetError, WeightsError: one sentence on what is wrong, by whose fault it is.
    """
    cfg = read_lazy_config(args.config_file, args.opts)
    if comm.get_world_size() == 1:  # otherwise launch() has done it
        check_lazy_config(cfg, args)
    setup_logger(cfg.train.output_dir, distributed_rank=comm.get_rank(), name="fpt_d2")
    default_setup(cfg, args)
    return cfg


def check_lazy_arguments(args: argparse.Namespace) -> str:
    """Check the lazy config that the command line names, before several processes are started.

    Returns:
        The device of its model.

    Raises:
        ConfigError, DatasetError, WeightsError: as :func:`setup_lazy`.
    """
    cfg = read_lazy_config(args.config_file, args.opts)
    check_lazy_config(cfg, args)
    return str(cfg.train.device)


def read_lazy_config(config_file: str, opts: Sequence[str] = ()) -> DictConfig:
    """Read a lazy config and the ``key=value`` pairs that override it. Errors in the Python of the file are its own.

    Raises:
        ConfigError: no such file, a part that is missing, or a pair that does not fit.
    """
    if not config_file or not Path(config_file).is_file():
        hint = did_you_mean(config_file, (str(path) for path in Path("configs").rglob("*.py")))
        raise ConfigError(f"There is no config file {config_file}{hint}" if config_file else "Add --config-file FILE")
    if not config_file.endswith(".py"):
        raise ConfigError(f"{config_file} is no lazy config, which is a .py file: train_net.py takes the others")
    cfg = LazyConfig.load(config_file)
    if missing := [part for part in _PARTS if part not in cfg]:
        raise ConfigError(f"The config file {config_file} lacks {', '.join(missing)}")
    cfg.train.setdefault("weights_allow_pickle", True)  # as MODEL.WEIGHTS_ALLOW_PICKLE; Detectron2 has no such key
    for pair in opts:
        _override(cfg, pair)
    return cfg


def _override(cfg: DictConfig, pair: str) -> None:
    key, equals, _ = pair.partition("=")
    if not equals:
        raise ConfigError(f"The command line is wrong: {pair!r} is not key=value, as train.max_iter=100 is")
    # Detectron2 adds a key that is not there, so that a misspelled one has no effect.
    node: Any = cfg
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            raise ConfigError(f"The command line is wrong: there is no {key} in the config")
        node = node.get(part)
    try:
        LazyConfig.apply_overrides(cfg, [pair])
    except Exception as error:  # of hydra's parser, which not everyone has
        raise ConfigError(f"The command line is wrong: {pair!r} ({' '.join(str(error).split())})") from error


def check_lazy_config(cfg: DictConfig, args: argparse.Namespace) -> None:
    """Check that what a lazy config and the command line ask for can be done here.

    Raises:
        ConfigError, DatasetError, WeightsError: naming what is wrong, by whose fault it is.
    """
    train = cfg.train
    check_device(str(train.device), args.num_gpus, key="train.device", on_cpu="train.device=cpu")
    if train.amp.enabled and not str(train.device).startswith("cuda") and not args.eval_only:
        raise ConfigError("train.amp.enabled needs a GPU: Detectron2 trains in mixed precision with CUDA only")
    if args.eval_only and not train.init_checkpoint:
        raise ConfigError("--eval-only needs a trained model: add train.init_checkpoint=FILE")
    if train.init_checkpoint and not (args.resume and _last_checkpoint(train.output_dir)):
        allow_pickle = train.get("weights_allow_pickle", True)
        find_weights(train.init_checkpoint, allow_pickle=allow_pickle, key="train.weights_allow_pickle")
    _check_lazy_datasets(cfg, eval_only=args.eval_only)
    if not args.eval_only:
        check_output_dir(train.output_dir, resume=args.resume, key="train.output_dir")


def _check_lazy_datasets(cfg: DictConfig, *, eval_only: bool) -> None:
    """The checks of the data, as far as the config is written in the way of Detectron2's own."""
    loader, heads = cfg.dataloader, cfg.model.get("roi_heads") or {}
    key = "model.roi_heads.num_classes" if heads else "model.num_classes"
    is_known = heads or str(cfg.model.get("_target_", "")).rstrip("'>").endswith(("FCOS", "RetinaNet"))
    train = loader.get("train") or {}
    mapper = train.get("mapper") or {}
    check_instance_datasets(
        [] if eval_only else _names(train),
        _names(loader.get("test")) if "evaluator" in loader else [],
        num_classes=OmegaConf.select(cfg, key) if is_known else None,
        set_num_classes=f"{key}=",
        mask_format=mapper.get("instance_mask_format", "polygon") if heads.get("mask_head") else None,
        keypoints=bool(heads.get("keypoint_head")),
    )


def _names(loader: DictConfig | None) -> list[str]:
    """Data sets that a loader reads, as far as they are written in Detectron2's way."""
    names = (loader or {}).get("dataset", {}).get("names", [])
    return [names] if isinstance(names, str) else list(names)


def _last_checkpoint(folder: str) -> bool:
    return FPTCheckpointer(nn.Module(), folder).has_checkpoint()


def build_lazy_model(cfg: DictConfig) -> nn.Module:
    """The model on its device, over all processes."""
    model = instantiate(cfg.model).to(cfg.train.device)
    on_cpu = {} if str(cfg.train.device).startswith("cuda") else {"device_ids": None}
    return create_ddp_model(model, **cfg.train.ddp, **on_cpu)


def evaluate_lazy(cfg: DictConfig, model: nn.Module) -> OrderedDict[str, Any]:
    """Evaluate with ``dataloader.evaluator`` on ``dataloader.test``; nothing where the config has none."""
    if "evaluator" not in cfg.dataloader:
        return OrderedDict()
    results = inference_on_dataset(model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator))
    if comm.is_main_process():
        print_csv_format(results)
    return results


def build_lazy_trainer(cfg: DictConfig, *, resume: bool = False) -> TrainerBase:
    """A trainer with its hooks, the weights loaded, and ``start_iter`` set.

    Args:
        cfg: as :func:`setup_lazy` returns it.
        resume: go on from the last checkpoint of ``train.output_dir`` where there is one.
    """
    train = cfg.train
    model = build_lazy_model(cfg)
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    trainer = (AMPTrainer if train.amp.enabled else SimpleTrainer)(model, loader, optimizer)
    checkpointer = SafeCheckpointer(model, train.output_dir, save_to_disk=comm.is_main_process(), trainer=trainer)
    resumed = resume and checkpointer.has_checkpoint()
    checkpointer.resume_or_load(train.init_checkpoint, resume=resume)
    trainer.start_iter = trainer.iter + 1 if resumed else 0
    main_only = comm.is_main_process()
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            SaveOnInterrupt(checkpointer),
            hooks.PeriodicCheckpointer(checkpointer, **train.checkpointer) if main_only else None,
            hooks.EvalHook(train.eval_period, lambda: evaluate_lazy(cfg, model)),
            hooks.PeriodicWriter(default_writers(train.output_dir, train.max_iter), period=train.log_period)
            if main_only
            else None,
        ]
    )
    return trainer
