"""A value that a constructor of Detectron2 or torch refuses, by the key of the config that it comes from."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from detectron2.config import CfgNode

from ..config_file import get_default_config, merged_config
from ..config_values import flat, numbers
from ..core import ArgumentError
from ..errors import ConfigError
from ..modeling.build import REGISTRIES

Part = TypeVar("Part")

# What constructors raise about a value.
REFUSALS = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
# Whose constructors the values of a config are given to. What other code raises, ours too, is a mistake in that code.
_BUILDERS = ("detectron2", "fvcore", "numpy", "timm", "torch", "torchvision")
# Our code that hands values of the config on as they are. What other code hands on it may have computed wrongly.
_HANDS_ON = ("fpt_d2.engine", "fpt_d2.modeling", "fpt_d2.data", "fpt_d2.evaluation")
# Sections that say where something lies, which building does not depend on.
_PLACES = ("DATASETS", "OUTPUT_DIR", "VERSION")


def built(part: str, make: Callable[[CfgNode], Part], cfg: CfgNode, config_file: str = "") -> Part:
    """``make(cfg)``, which calls constructors of Detectron2 or torch.

    Args:
        part: what it makes, as the beginning of a sentence.
        config_file: where ``cfg`` was read from, before the command line changed it; "" if that is not known.

    Raises:
        ConfigError: a constructor refuses a value. The key is the one whose other value, that of the file without the
            command line or the default, lets it be made. Where code of somebody else stands between the config and the
            constructor and there is no such key, it is a mistake in that code, and stays what it is.
    """
    try:
        return make(cfg)
    except REFUSALS as error:
        if not is_refusal(error):
            raise
        is_theirs = not is_handed_on(error)
        keys, now = _keys_at_fault(make, cfg, config_file, error, is_theirs=is_theirs), flat(cfg)
        if is_theirs and not keys:
            raise
        values = ", ".join(f"{key} {now[key]!r}" for key in keys) or "this config"
        raise ConfigError(f"{part} cannot be built with {values}: {reason(error)}") from error


def is_refusal(error: Exception) -> bool:
    """Whether an error is what one of the libraries, or a constructor of ours, says of a value."""
    # yacs says of a key that a config does not have what its reader asked for, which may be a library.
    packages = [name for name in map(_package, _modules(error.__traceback__)) if name != "yacs"]
    return isinstance(error, ArgumentError) or bool(packages) and packages[-1] in _BUILDERS


def is_handed_on(error: Exception) -> bool:
    """Whether the value that is refused comes straight from the config, not through code that may be wrong itself."""
    between = (*_BUILDERS, *sys.stdlib_module_names, "omegaconf", "yacs")
    callers = [module for module in _modules(error.__traceback__) if _package(module) not in between]
    return isinstance(error, ArgumentError) or not callers or callers[-1].startswith(_HANDS_ON)


def _modules(trace: TracebackType | None) -> list[str]:
    """The modules through which an error has come, that in which it was raised last."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    return [str(frame.f_globals.get("__name__", "")) for frame in frames] or [""]


def _package(module: str) -> str:
    return module.partition(".")[0]


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, ArgumentError):
        return str(error)
    text = " ".join(str(error).split())
    if not text:  # of an assertion its source, which is what was expected
        text = traceback.extract_tb(error.__traceback__)[-1].line or ""
    return f"{type(error).__name__} {text}".strip()


@contextmanager
def in_silence() -> Iterator[None]:
    """Log nothing meanwhile: what is tried may fail."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)


def first_that_builds(trials: Iterable[tuple[str, Callable[[], Any]]]) -> list[str]:
    """The name of the first trial that raises nothing, in a list; an empty one where all do."""
    with in_silence():
        for name, trial in trials:
            with suppress(Exception):
                trial()
                return [name]
    return []


def _keys_at_fault(
    make: Callable[[CfgNode], Any], cfg: CfgNode, config_file: str, error: Exception, *, is_theirs: bool
) -> list[str]:
    with_name = _keys_with(error.args[0], cfg) if isinstance(error, KeyError) else []
    if len(with_name) == 1 and not is_theirs:
        return with_name

    def trial(key: str, other: Any) -> None:
        changed = cfg.clone()
        changed.defrost()
        changed.merge_from_list([key, other])
        make(changed)

    others = (pair for pair in _other_values(cfg, config_file) if not (is_theirs and _chooses(*pair)))
    return first_that_builds((key, partial(trial, key, other)) for key, other in others) or with_name


def _chooses(key: str, value: Any) -> bool:
    """Whether a key says which code runs: another value of it avoids a mistake instead of mending a value."""
    return isinstance(value, bool) or key.removeprefix("MODEL.") in REGISTRIES


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
