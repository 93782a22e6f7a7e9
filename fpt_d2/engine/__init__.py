"""Training: the config, its checks, the trainer and its hooks."""

from fpt_d2.data import DatasetError

from .defaults import ConfigError, get_default_config, read_config
from .setup import launch, setup
from .trainer import Trainer

__all__ = ["ConfigError", "DatasetError", "Trainer", "get_default_config", "launch", "read_config", "setup"]
