"""Training: the config, its checks, the trainer and its hooks."""

from fpt_d2.checkpoint import WeightsError
from fpt_d2.data import DatasetError

from .defaults import ConfigError, get_default_config, read_config
from .setup import launch, setup
from .trainer import Trainer

# What a user can mend; each says it in one sentence.
USER_ERRORS = (ConfigError, DatasetError, WeightsError)

__all__ = ["USER_ERRORS", "ConfigError", "Trainer", "get_default_config", "launch", "read_config", "setup"]
