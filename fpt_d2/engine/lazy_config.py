"""A lazy config, read and checked as far as its values go; nothing of it is built here."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.data import DatasetMapper
from detectron2.model_zoo import get_config
from detectron2.utils.registry import locate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, UnsupportedValueType, ValidationError

from ..config_file import get_default_config
from ..config_path import did_you_mean
from ..config_types import fitting, in_words
from ..config_values import check_values, flat, numbers
from ..data import InstanceMapper
from ..errors import ConfigError, require
from .lazy_words import ALIKE, TWINS

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# What Detectron2's common/train.py has, and what nobody can know for a user.
_OWN_KEYS = ("train.max_iter", "train.output_dir")
_MAY_BE_NONE = ("train.checkpointer.max_to_keep", "train.init_checkpoint", "optimizer.params.")
# Is given to it once the model is there.
_SET_LATER = {"optimizer.params": {"model"}}


def read_lazy_config(config_file: str, opts: Sequence[str] = ()) -> DictConfig:
    """Read a lazy config and the ``key=value`` pairs that override it. Errors in the Python of the file are its own.

    What ``train`` does not have is Detectron2's, but for ``max_iter`` and ``output_dir``.

    Raises:
        ConfigError: no such file, a part that is missing, a pair that does not fit, a ``_target_`` that is not there or
            does not take its arguments, or a value that its key cannot have.
    """
    cfg = _load(config_file)
    try:
        _complete(cfg, config_file, opts)
        for path, node in _nodes(cfg):
            _check_target(path, node)
        for split in ("train", "test"):
            mapper = OmegaConf.select(cfg, f"dataloader.{split}.mapper")
            if OmegaConf.is_dict(mapper) and mapper.get("_target_") in (DatasetMapper, _name_of(DatasetMapper)):
                mapper._target_ = InstanceMapper  # which reads images of more than 8 bits
        _check_values(cfg)
    except OmegaConfBaseException as error:  # ${...} that leads nowhere
        raise ConfigError(f"The config file {config_file} is wrong: {str(error).splitlines()[0]}") from error
    return cfg


def _complete(cfg: DictConfig, config_file: str, opts: Sequence[str]) -> None:
    for pairs in ((), opts):
        for pair in pairs:
            _override(cfg, pair)
        _check_sections(cfg, config_file)
        defaults = {**get_config("common/train.py").train, "weights_allow_pickle": True}  # the last is ours
        for name in (name for name in defaults if f"train.{name}" not in _OWN_KEYS and cfg.train.get(name) is None):
            cfg.train[name] = defaults[name]
    cfg.train.amp.setdefault("enabled", False)


def _load(config_file: str) -> DictConfig:
    path = Path(config_file)
    require(bool(config_file), "No config file is given: add --config-file FILE")
    hint = did_you_mean(config_file, map(str, Path("configs").rglob("*.py"))) or ": train_net.py takes .yaml files"
    require(path.suffix == ".py" and path.is_file(), f"There is no lazy config (a .py file) {config_file}{hint}")
    try:
        cfg: DictConfig = LazyConfig.load(config_file)
    except SyntaxError as error:
        why = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        raise ConfigError(f"{error.msg} {why.msg} in line {why.lineno}: correct it") from error
    return cfg


def _check_sections(cfg: DictConfig, config_file: str) -> None:
    missing = [name for name in SECTIONS if cfg.get(name) is None]
    require(not missing, f"The config file {config_file} does not have {', '.join(missing)}")
    for name in (*SECTIONS, "train.amp", "train.ddp", "train.checkpointer", "dataloader.train"):
        section = OmegaConf.select(cfg, name)
        is_there = OmegaConf.is_dict(section) or (section is None and name.startswith("train."))
        require(is_there, f"{name} is {section!r}; allowed: a section of keys and values")
    for name in ("model", "optimizer", "lr_multiplier", "dataloader.train"):
        require("_target_" in OmegaConf.select(cfg, name), f"{name} has no _target_: write it as LazyCall(...)(...)")
    has_params = OmegaConf.is_dict(cfg.optimizer.get("params"))
    require(has_params, "optimizer.params is missing: write params=LazyCall(get_default_optimizer_params)()")


def _override(cfg: DictConfig, pair: str) -> None:
    """Set one key. Detectron2 adds a key that is not there, so that a misspelled one would have no effect."""
    key, equals, _ = pair.partition("=")
    wrong = "The command line is wrong:"
    require(bool(key and equals), f"{wrong} {pair!r} is not key=value, as train.max_iter=100 is")
    missing = object()
    try:
        is_known = OmegaConf.select(cfg, key, default=missing, throw_on_missing=False) is not missing
    except OmegaConfBaseException:
        is_known = False
    is_known = is_known or key in TWINS  # Detectron2 reads some of these, such as train.seed, where they are there
    require(is_known, f"{wrong} there is no {key} in the config{did_you_mean(key, map(str, flat(_plain(cfg))))}")
    try:
        LazyConfig.apply_overrides(cfg, [pair])
    except (UnsupportedValueType, ValidationError) as error:  # hydra's sweeps
        raise ConfigError(f"{wrong} {pair!r} gives {key} several values: give one, or a list in [...]") from error
    except Exception as error:  # of hydra's parser, which not everyone has
        raise ConfigError(f"{wrong} {pair!r} ({' '.join(str(error).split())})") from error


def _plain(cfg: DictConfig) -> dict[str, Any]:
    content: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    return content


def _nodes(cfg: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """What is going to be built, by its full name."""
    for name in SECTIONS[:-1]:
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
    return _name_of(node._target_).rpartition(".")[2]


def _name_of(target: Any) -> str:
    return target if isinstance(target, str) else f"{target.__module__}.{getattr(target, '__qualname__', target)}"


def _check_target(path: str, node: DictConfig) -> None:
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


def _check_values(cfg: DictConfig) -> None:
    defaults = flat(get_default_config())
    for key, twin in {**TWINS, **ALIKE}.items():
        value = OmegaConf.select(cfg, key, default=_MISSING)
        if value is _MISSING:
            require(key not in _OWN_KEYS, f"The config does not have {key}")
        elif value is not None or not key.startswith(_MAY_BE_NONE):
            if OmegaConf.is_list(value):
                value = list(value)
            require(value is not None, f"{key} is None; allowed: {in_words(defaults[twin])}")
            fit = fitting(key, value, defaults[twin])
            check_values({twin: fit}, name=key)
            if type(fit) is not type(value):
                OmegaConf.update(cfg, key, fit)
    for path, value in flat(_plain(cfg)).items():
        require(
            not any(isinstance(x, float) and x != x for x in numbers(value)), f"{path} is {value!r}; allowed: numbers"
        )


_MISSING = object()
