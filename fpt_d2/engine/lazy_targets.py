"""The ``_target_``s of a lazy config: whether they are there, and take the arguments that they are given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config_path import did_you_mean
from ..errors import ConfigError, require

# Is given to it once the model is there.
_SET_LATER = {"optimizer.params": {"model"}}


def nodes(cfg: DictConfig, sections: Sequence[str]) -> Iterator[tuple[str, DictConfig]]:
    """What is going to be built, by its full name."""
    for name in sections:
        yield from _nodes_within(cfg[name], name)


def _nodes_within(value: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(value, ListConfig):
        for index in range(len(value)):
            yield from _nodes_within(_item(value, index, path), f"{path}[{index}]")
    elif isinstance(value, DictConfig):
        if "_target_" in value:
            yield path, value
        for name in map(str, value):
            if name not in _SET_LATER.get(path, ()):
                yield from _nodes_within(_item(value, name, path), f"{path}.{name}")


def _item(node: Any, name: Any, path: str) -> Any:
    try:
        return node[name]
    except OmegaConfBaseException as error:  # ??? for what is still to be given, ${...} that leads nowhere
        raise ConfigError(f"{path}.{name} has no value: {str(error).splitlines()[0]}") from error


def target_of(path: str, node: DictConfig) -> Any:
    """What the ``_target_`` of a node is. Raises ConfigError if it is not there, or not something to call."""
    target = node._target_
    if isinstance(target, str):
        try:
            target = locate(target)
        except (ImportError, ValueError) as error:  # not that which its module raises itself
            raise ConfigError(f"{path}._target_ is {node._target_!r}, which cannot be imported") from error
    require(callable(target), f"{path}._target_ is {target!r}; allowed: a class or a function, or its full name")
    return target


def target_name(node: DictConfig) -> str:
    """The name of a target without its module."""
    return name_of(node._target_).rpartition(".")[2]


def name_of(target: Any) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{getattr(target, '__qualname__', target)}"


def check_target(path: str, node: DictConfig) -> None:
    """That it is there, and takes the arguments it is given. Nodes within nodes are checked by themselves."""
    target = target_of(path, node) if not OmegaConf.is_config(node._target_) else None
    try:
        parameters = inspect.signature(target).parameters  # type: ignore[arg-type]
    except (TypeError, ValueError):  # of a node, or of code in C
        return
    given = {str(name) for name in node if name != "_target_"} | _SET_LATER.get(path, set())
    name = target_name(node)
    kinds = {p.kind for p in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for extra in sorted(given - parameters.keys()):
            raise ConfigError(f"{path}.{extra} is no argument of {name}{did_you_mean(extra, parameters)}")
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [p.name for p in parameters.values() if p.default is p.empty and p.kind in named and p.name not in given]
    require(not needed, f"{path} does not have {', '.join(needed)}, which {name} needs")
