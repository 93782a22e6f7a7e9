"""Where a config file is, which needs nothing that takes long to import."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError
from .model_zoo import bundled, find_bundled, replacement_for


def find_config_file(config_file: str) -> str:
    """The path of a ``.yaml`` file: of the user's or, where there is none of that name, of one that comes with fpt_d2.

    Args:
        config_file: a path, or a name inside ``configs/`` such as ``"COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"``.

    Raises:
        ConfigError: there is no such file; the message has the names like it.
    """
    if not config_file:
        raise ConfigError("No config file is given: add --config-file FILE")
    path = Path(config_file)
    if not path.exists() and (own := find_bundled(config_file, "configs")):
        path = own
    if path.is_file():
        if path.suffix == ".py":
            raise ConfigError(
                f"{config_file} is a lazy config: tools/lazyconfig_train_net.py of the repository takes it; give a "
                ".yaml file"
            )
        return str(path)
    if path.is_dir():
        raise ConfigError(f"The config file {config_file} is a folder: give one of the .yaml files in it")
    if replacement := replacement_for(config_file):
        raise ConfigError(f"{config_file} is no longer a config of its own: use {replacement}")
    found = [str(file) for file in (*path.parent.glob("*.yaml"), *Path("configs").rglob("*.yaml"))]
    root = bundled("configs")
    found = found or [file.relative_to(root).as_posix() for file in root.rglob("*.yaml")]
    raise ConfigError(f"There is no config file {config_file}{did_you_mean(config_file, dict.fromkeys(found))}")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: those most like it."""
    similar = difflib.get_close_matches(wrong, list(known))
    return f": did you mean {' or '.join(similar)}?" if similar else ""
