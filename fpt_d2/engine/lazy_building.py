"""A value that a constructor refuses, by the key of the lazy config that it comes from."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from ..core import ArgumentError
from ..errors import ConfigError
from .building import REFUSALS, first_that_builds, in_silence, is_handed_on, is_refusal, reason
from .lazy_config import read_lazy_config

Part = TypeVar("Part")

# Of a loader, what cannot be had without reading the data.
OF_DATA = ("dataset", "sampler")


def built_lazily(
    part: str, section: str, make: Callable[[DictConfig], Part], cfg: DictConfig, args: argparse.Namespace
) -> Part:
    """``make(cfg)``, in a sentence where a value is refused, as :func:`.building.built` does it for YAML configs.

    The key is that of the command line without which it could be built, or the innermost part that cannot.
    """
    try:
        with in_silence():  # Detectron2 logs what it then raises
            return make(cfg)
    except REFUSALS as error:
        if not is_refusal(error):
            raise
        if keys := first_that_builds(_without_overrides(make, cfg, args)):
            values = f" with {keys[0]} {OmegaConf.select(cfg, keys[0])!r}"
        elif is_handed_on(error):
            path, node = _innermost(section, OmegaConf.select(cfg, section))
            name = f".{error.argument}" if isinstance(error, ArgumentError) and error.argument in node else ""
            values = f" with {path}{name}" if path != section or name else ""
        else:
            raise
        raise ConfigError(f"{part} cannot be built{values}: {reason(error)}") from error


def _without_overrides(
    make: Callable[[DictConfig], Any], cfg: DictConfig, args: argparse.Namespace
) -> Iterator[tuple[str, Callable[[], Any]]]:
    keys = dict.fromkeys(pair.partition("=")[0] for pair in args.opts)
    before = read_lazy_config(args.config_file) if keys else cfg

    def trial(key: str) -> None:
        changed = copy.deepcopy(cfg)
        OmegaConf.update(changed, key, OmegaConf.select(before, key), merge=False)
        make(changed)

    for key in keys:
        yield key, partial(trial, key)


def _innermost(path: str, node: Any) -> tuple[str, Any]:
    """The part within a part that cannot be built by itself, by its full name."""
    is_list = isinstance(node, ListConfig)
    for name, value in enumerate(node) if is_list else node.items():
        if OmegaConf.is_config(value) and name not in (*OF_DATA, "params"):
            try:
                with in_silence(), torch.device("meta"):
                    instantiate(value)
            except REFUSALS:
                return _innermost(f"{path}[{name}]" if is_list else f"{path}.{name!s}", value)
    return path, node
