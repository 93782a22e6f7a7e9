"""Whether a config file is there, which needs nothing that takes long to import."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError
from .model_zoo import replacement_for


def check_config_file(config_file: str) -> None:
    """Raises ConfigError if there is no such ``.yaml`` file; the message has the names like it."""
    if not config_file:
        raise ConfigError("No config file is given: add --config-file FILE")
    path = Path(config_file)
    if path.is_file():
        if path.suffix == ".py":
            raise ConfigError(
                f"{config_file} is a lazy config: tools/lazyconfig_train_net.py takes it; give a .yaml file"
            )
        return
    if path.is_dir():
        raise ConfigError(f"The config file {config_file} is a folder: give one of the .yaml files in it")
    if replacement := replacement_for(config_file):
        raise ConfigError(f"{config_file} is no longer a config of its own: use {replacement}")
    found = [str(file) for file in (*path.parent.glob("*.yaml"), *Path("configs").rglob("*.yaml"))]
    raise ConfigError(f"There is no config file {config_file}{did_you_mean(config_file, dict.fromkeys(found))}")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: those most like it."""
    similar = difflib.get_close_matches(wrong, list(known))
    return f": did you mean {' or '.join(similar)}?" if similar else ""
