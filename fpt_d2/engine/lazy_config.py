"""A lazy config, read and checked as far as its values go; nothing of it is built here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import LazyConfig
from detectron2.data import DatasetMapper
from detectron2.model_zoo import get_config
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException, UnsupportedValueType, ValidationError

from ..cli import spelled
from ..config_file import get_default_config
from ..config_path import did_you_mean
from ..config_types import fitting, in_words
from ..config_values import check_values, flat, numbers
from ..data import InstanceMapper
from ..errors import ConfigError, require
from .lazy_targets import check_target, name_of, nodes
from .lazy_words import ALIKE, TWINS

SECTIONS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# What Detectron2's common/train.py has, and what nobody can know for a user.
_OWN_KEYS = ("train.max_iter", "train.output_dir")
_MAY_BE_NONE = ("train.checkpointer.max_to_keep", "train.init_checkpoint", "optimizer.params.")


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
        for path, node in nodes(cfg, SECTIONS[:-1]):
            check_target(path, node)
        for split in ("train", "test"):
            mapper = OmegaConf.select(cfg, f"dataloader.{split}.mapper")
            if OmegaConf.is_dict(mapper) and mapper.get("_target_") in (DatasetMapper, name_of(DatasetMapper)):
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
        ours = {"weights_allow_pickle": True, "verbose": False}
        defaults = {**get_config("common/train.py").train, **ours}
        for name in (name for name in defaults if f"train.{name}" not in _OWN_KEYS and cfg.train.get(name) is None):
            cfg.train[name] = defaults[name]
    cfg.train.amp.setdefault("enabled", False)


def _load(config_file: str) -> DictConfig:
    path = Path(config_file)
    require(bool(config_file), "No config file is given: add --config-file FILE")
    hint = (
        did_you_mean(config_file, map(str, Path("configs").rglob("*.py")))
        or f": {spelled('fpt-train')} takes .yaml files"
    )
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
