"""From the command line to a config that is ready to use."""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode
from detectron2.engine import default_setup

from ..config_file import read_config
from ..config_path import find_config_file
from ..data import register_from_config
from .checks import check_config
from .cluster import is_checked
from .debug import use_debug_settings
from .failures import in_sentences
from .trainer import Trainer
from .writers import start_logging


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
    if not is_checked(args):
        check_config(cfg, args, trainer)
    if cfg.DEBUG.ENABLED:
        use_debug_settings(cfg)
    cfg.freeze()
    with in_sentences(cfg.OUTPUT_DIR):
        start_logging(cfg.OUTPUT_DIR, verbose=cfg.LOG.VERBOSE)
        default_setup(cfg, args)
    return cfg


def check_arguments(args: argparse.Namespace, trainer: type[Trainer] | None = None) -> str:
    """Check the config that the command line names, and return the device of its model. Raises UserError."""
    return str(checked_config(args, trainer).MODEL.DEVICE)


def checked_config(args: argparse.Namespace, trainer: type[Trainer] | None = None) -> CfgNode:
    """The config that the command line names, not frozen, after all checks of it. Raises UserError."""
    cfg = _registered_config(args)
    check_config(cfg, args, trainer)
    return cfg


def _registered_config(args: argparse.Namespace) -> CfgNode:
    args.config_file = find_config_file(args.config_file)  # which Detectron2 reads again, for the log
    cfg = read_config(args.config_file, args.opts)
    register_from_config(cfg)
    return cfg
