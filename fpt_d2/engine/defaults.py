"""The config: its defaults, and what a user's file and command line make of them."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from detectron2.config import CfgNode, get_cfg

from ..config import add_fpt_config, add_point_rend_config
from ..errors import ConfigError
from ..model_zoo import replacement_for


def get_default_config() -> CfgNode:
    """Detectron2's default config with the keys of this project."""
    cfg = get_cfg()
    add_fpt_config(cfg)
    return cfg


def read_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config file and the ``KEY VALUE`` pairs that override it.

    Returns:
        The config, not frozen.

    Raises:
        ConfigError: naming what is wrong, and what is meant where that can be guessed.
    """
    _check_file(config_file)
    cfg = get_default_config()
    with _explained(f"The config file {config_file}", cfg):
        add_point_rend_config(cfg, config_file)
        cfg.merge_from_file(config_file)
    with _explained("The command line", cfg):
        cfg.merge_from_list(list(opts))
    return cfg


def _check_file(config_file: str) -> None:
    if not config_file:
        raise ConfigError("No config file is given: add --config-file FILE")
    path = Path(config_file)
    if path.is_file():
        if path.suffix == ".py":
            raise ConfigError(
                f"{config_file} is a lazy config: tools/lazyconfig_train_net.py takes it; give a .yaml file"
            )
        return
    if replacement := replacement_for(config_file):
        raise ConfigError(f"{config_file} is no longer a file of its own: use {path.parents[1] / replacement}")
    found = [str(file) for file in (*path.parent.glob("*.yaml"), *Path("configs").rglob("*.yaml"))]
    raise ConfigError(f"There is no config file {config_file}{did_you_mean(config_file, dict.fromkeys(found))}")


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a sentence about a name that is not known: those most like it."""
    similar = difflib.get_close_matches(wrong, list(known))
    return f": did you mean {' or '.join(similar)}?" if similar else ""


@contextmanager
def _explained(origin: str, cfg: CfgNode) -> Iterator[None]:
    """Turn what yacs and yaml raise into one sentence."""
    try:
        yield
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    except (AssertionError, KeyError, ValueError, OSError) as error:
        message = str(error if isinstance(error, OSError) else error.args[0])
        hint = ""
        if message.startswith("Non-existent"):
            hint = did_you_mean(message.rsplit(" ", 1)[-1], _keys(cfg))
        elif "odd length" in message:
            hint = " (options such as --resume go before the pairs of KEY VALUE)"
        raise ConfigError(f"{origin} is wrong: {message}{hint}") from error


def _keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    """Full names of all keys, sections included."""
    for key, value in node.items():
        yield prefix + key
        if isinstance(value, CfgNode):
            yield from _keys(value, f"{prefix}{key}.")
