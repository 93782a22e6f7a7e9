"""From the command line to a config that is ready to use, and to the processes that use it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

import detectron2.engine
from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config_file import read_config
from ..data import register_from_config
from .checks import check_config, check_optimizer_state
from .debug import use_debug_settings
from .trainer import Trainer


def setup(args: argparse.Namespace, trainer: type[Trainer] | None = None) -> CfgNode:
    """Read and check the config, and set this process up as Detectron2 does: logging, seed, folder of the output.

    Args:
        args: of :func:`fpt_d2.cli.training_parser`.
        trainer: the class that is going to train; where it is given, what it builds is tried, too.

    Returns:
        The config, frozen.

    Raises:
        UserError: something that the user can mend.
    """
    cfg = _registered_config(args)
    if comm.get_world_size() == 1:  # otherwise launch() has done it
        check_config(cfg, args, trainer)
    if cfg.DEBUG.ENABLED:
        use_debug_settings(cfg)
    cfg.freeze()
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fpt_d2")
    default_setup(cfg, args)
    return cfg


def check_arguments(args: argparse.Namespace, trainer: type[Trainer] | None = None) -> str:
    """Check the config that the command line names, and return the device of its model. Raises UserError."""
    return str(checked_config(args, trainer).MODEL.DEVICE)


def checked_config(args: argparse.Namespace, trainer: type[Trainer] | None = None) -> CfgNode:
    """The config that the command line names, not frozen, after all checks of it. Raises UserError."""
    cfg = _registered_config(args)
    check_config(cfg, args, trainer)
    check_optimizer_state(cfg, args)
    return cfg


def launch(
    main: Callable[[argparse.Namespace], Any],
    args: argparse.Namespace,
    check: Callable[[argparse.Namespace], str] = check_arguments,
) -> None:
    """Detectron2's ``launch``: run ``main(args)`` in ``--num-gpus`` processes on each of ``--num-machines``.

    Args:
        main: a function that :mod:`pickle` can name.
        args: of :func:`fpt_d2.cli.training_parser`.
        check: checks the config of several processes, once and before they are started; returns its device.

    Raises:
        UserError: something that the user can mend.
    """
    # Detectron2 has processes talk over NCCL where it sees a GPU, which gradients on the CPU cannot.
    if args.num_gpus * args.num_machines > 1 and check(args) == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    detectron2.engine.launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )


def _registered_config(args: argparse.Namespace) -> CfgNode:
    cfg = read_config(args.config_file, args.opts)
    register_from_config(cfg)
    return cfg
