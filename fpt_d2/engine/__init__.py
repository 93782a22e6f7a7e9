"""Training: the checks of a config, the trainer and its hooks."""

from __future__ import annotations

from ..config_file import get_default_config, read_config
from ..errors import ConfigError
from .launch import launch
from .setup import check_arguments, setup
from .trainer import Trainer

__all__ = ["ConfigError", "Trainer", "check_arguments", "get_default_config", "launch", "read_config", "setup"]
