"""A value that a constructor of Detectron2 or torch refuses, by the key of the config that it comes from."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from detectron2.config import CfgNode

from ..config_file import get_default_config, merged_config
from ..config_values import flat, numbers
from ..core import ArgumentError
from ..errors import ConfigError

Part = TypeVar("Part")

# What constructors raise about a value.
_REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# Whose constructors the values of a config are given to. What other code raises, ours too, is a mistake in that code.
_BUILDERS = ("detectron2", "fvcore", "numpy", "timm", "torch", "torchvision")
# Sections that say where something lies, which building does not depend on.
_PLACES = ("DATASETS", "OUTPUT_DIR", "VERSION")


def built(part: str, make: Callable[[CfgNode], Part], cfg: CfgNode, config_file: str = "") -> Part:
    """``make(cfg)``, which calls constructors of Detectron2 or torch.

    Args:
        part: what it makes, as the beginning of a sentence.
        config_file: where ``cfg`` was read from, before the command line changed it; "" if that is not known.

    Raises:
        ConfigError: a constructor refuses a value. The key is the one whose other value, that of the file without the
            command line or the default, lets it be made.
    """
    try:
        return make(cfg)
    except _REFUSALS as error:
        if not isinstance(error, ArgumentError) and _raised_by(error.__traceback__) not in _BUILDERS:
            raise
        keys, now = _keys_at_fault(make, cfg, config_file, error), flat(cfg)
        values = ", ".join(f"{key} {now[key]!r}" for key in keys) or "this config"
        raise ConfigError(f"{part} cannot be built with {values}: {_reason(error)}") from error


def _raised_by(trace: TracebackType | None) -> str:
    """The package in which an error was raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] if trace is not None else ""


def _reason(error: Exception) -> str:
    if isinstance(error, ArgumentError):
        return str(error)
    text = " ".join(str(error).split())
    if not text:  # of an assertion its source, which is what was expected
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return f"{type(error).__name__} {text}".strip()


def _keys_at_fault(make: Callable[[CfgNode], Any], cfg: CfgNode, config_file: str, error: Exception) -> list[str]:
    with_name = _keys_with(error.args[0], cfg) if isinstance(error, KeyError) else []
    if len(with_name) == 1:
        return with_name
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        for key, other in _other_values(cfg, config_file):
            trial = cfg.clone()
            trial.defrost()
            with contextlib.suppress(Exception):
                trial.merge_from_list([key, other])
                make(trial)
                return [key]
    finally:
        logging.disable(level)
    return with_name


def _keys_with(name: Any, cfg: CfgNode) -> list[str]:
    """The keys that have a name, or have it in a list, which something does not have: a feature, mostly."""
    return [key for key, value in flat(cfg).items() if isinstance(value, (list, str, tuple)) and name in numbers(value)]


def _other_values(cfg: CfgNode, config_file: str) -> Iterator[tuple[str, Any]]:
    """Keys, and what they are without the command line, then what they are by default; where that differs."""
    now, others = flat(cfg), [merged_config(config_file)] if config_file else []
    for other in (*others, get_default_config()):
        # What belongs to a part before what chooses it, and switches last.
        for key, value in sorted(
            flat(other).items(), key=lambda pair: (isinstance(pair[1], bool), -pair[0].count("."))
        ):
            is_leaf = not isinstance(value, CfgNode) and key.partition(".")[0] not in _PLACES
            if is_leaf and value is not None and key in now and now[key] != value:
                yield key, value
