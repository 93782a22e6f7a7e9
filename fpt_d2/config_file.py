"""A config file and the ``KEY VALUE`` pairs over it, read and checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from .config import SEMANTIC_SEGMENTATION, add_fpt_config
from .config_path import did_you_mean, find_config_file
from .config_types import as_written, in_words
from .config_values import check_values, flat
from .config_yaml import CheckedYaml
from .errors import ConfigError


def get_default_config() -> CfgNode:
    """Detectron2's default config with the keys of this project."""
    cfg = get_cfg()
    add_fpt_config(cfg)
    return cfg


def read_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Read a config file and the ``KEY VALUE`` pairs that override it.

    YAML tags, which can run code, are refused.

    Returns:
        The config, not frozen.

    Raises:
        ConfigError: no such file, a key that does not exist, or a value of another type or out of its range.
    """
    cfg = merged_config(config_file, opts)
    _check_types(cfg)
    check_values(cfg)
    return cfg


def merged_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """As :func:`read_config`, but of values only the types are checked, as far as Detectron2 does that."""
    config_file = find_config_file(config_file)
    origin = f"The config file {config_file}"
    content, cfg = _load(config_file, origin), get_default_config()
    _add_projects(cfg, content.get("MODEL"), origin)
    if content.get("VERSION", cfg.VERSION) == cfg.VERSION:
        _merge(flat(content), cfg, origin)
    else:  # Detectron2 translates its keys
        with _named(f"{origin}, read with Detectron2's old keys as it says VERSION 1,"):
            cfg.merge_from_file(config_file, allow_unsafe=False)
    _merge_opts(opts, cfg)
    return cfg


def with_opts(cfg: CfgNode, opts: Sequence[str]) -> CfgNode:
    """A copy of a config, not frozen, with other values for some keys.

    Raises:
        ConfigError: a key that does not exist, or a value of another type or out of its range.
    """
    if "FPT" not in cfg.MODEL:
        raise ConfigError("The config lacks fpt_d2's keys: call fpt_d2.add_fpt_config(cfg) before it reads its file")
    cfg = cfg.clone()
    cfg.defrost()
    _merge_opts(opts, cfg)
    _check_types(cfg)
    check_values(cfg)
    return cfg


def _merge_opts(opts: Sequence[str], cfg: CfgNode) -> None:
    _check_keys(dict.fromkeys(opts[::2]), cfg, "The command line")
    if len(opts) % 2:
        raise ConfigError(f"The command line is wrong: {opts[-1]} has no value, keys and values come in pairs")
    _merge(dict(zip(opts[::2], opts[1::2])), cfg, "The command line")


def _merge(given: Mapping[str, Any], cfg: CfgNode, origin: str) -> None:
    """Give keys, by their full names, their values."""
    _check_keys(given, cfg, origin)
    known = flat(cfg)
    with _named(origin):
        for key, value in given.items():
            if not isinstance(value, Mapping):
                cfg.merge_from_list([key, as_written(key, value, known.get(key))])


def _load(config_file: str, origin: str) -> dict[str, Any]:
    """What the file and those that it is based on say."""
    try:
        content: dict[str, Any] = CheckedYaml.load_yaml_with_base(config_file)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin} cannot be read: it is based on itself by _BASE_, or nested too deeply") from error
    except (AssertionError, OSError) as error:  # of its bases, too
        raise ConfigError(f"{origin} cannot be read: {error}") from error
    except (AttributeError, TypeError) as error:  # Detectron2's, of what is no path
        raise ConfigError(f"{origin} has a _BASE_ that is not the path of a file") from error
    if content.get("VERSION", 2) not in (1, 2) or content.get("VERSION") is True:
        raise ConfigError(f"{origin} has VERSION {content['VERSION']!r}; allowed: 2, or 1 for Detectron2's old keys")
    return content


def _add_projects(cfg: CfgNode, model: Any, origin: str) -> None:
    """Add the keys of Detectron2's PointRend where the file has any.

    Only then, because importing that project registers its heads, which a user's own copy of it would do too.
    """
    model = model if isinstance(model, dict) else {}
    if model.get("META_ARCHITECTURE") == SEMANTIC_SEGMENTATION and "LOSS_TYPE" not in cfg.MODEL.SEM_SEG_HEAD:
        raise ConfigError(f"{origin} is for semantic segmentation, which needs {_missing('deeplab')}")
    if "POINT_HEAD" in model:
        try:
            from detectron2.projects.point_rend import add_pointrend_config
        except ModuleNotFoundError as error:
            raise ConfigError(f"{origin} has MODEL.POINT_HEAD, which needs {_missing('point_rend')}") from error
        add_pointrend_config(cfg)


def _missing(project: str) -> str:
    return f"Detectron2's project {project}, and this Detectron2 comes without: install one that has projects"


def _check_keys(given: Mapping[str, Any], cfg: CfgNode, origin: str) -> None:
    known = flat(cfg)
    for key, value in given.items():
        if key not in known and not cfg.key_is_renamed(key) and not cfg.key_is_deprecated(key):
            hint = did_you_mean(key, known)
            if key.startswith("--"):
                hint = ": options such as --resume go before the pairs of KEY VALUE"
            raise ConfigError(f"{origin} is wrong: there is no key {key}{hint}")
        if isinstance(known.get(key), CfgNode) and not isinstance(value, Mapping):
            example = f"{key}.{next(iter(known[key]))}"
            raise ConfigError(f"{origin} is wrong: {key} is a section, set one of its keys, such as {example}")


def _check_types(cfg: CfgNode) -> None:
    """Refuse what yacs lets through: None for any value, and anything within a list."""
    defaults = flat(get_default_config())
    for key, value in flat(cfg).items():
        default = defaults.get(key)
        if value is None and default is not None:
            raise ConfigError(f"{key} is None; allowed: {in_words(default)}")
        if isinstance(value, (list, tuple)) and isinstance(default, (list, tuple)):
            for kind, words in ((str, "names"), ((int, float), "numbers")):
                if default and all(isinstance(x, kind) for x in default):
                    if not all(isinstance(x, kind) for x in value):
                        raise ConfigError(f"{key} is {value!r}; allowed: {words}")


@contextmanager
def _named(origin: str) -> Iterator[None]:
    """What Detectron2 says of a value that it refuses, and of a key that was renamed, with where it stands."""
    try:
        yield
    except (AssertionError, KeyError, ValueError) as error:
        said = " ".join(str(error.args[0]).split())
        if said.startswith("Type mismatch"):  # with all that is there, of a section
            said = f"{said.rpartition(' ')[2]} has a value of another type than its default"
        raise ConfigError(f"{origin} is wrong: {said}") from error


def without_paths(cfg: CfgNode, weights: str = "") -> CfgNode:
    """A copy for others: with these weights, and without what names data, folders and results of its machine."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR = weights, "output"
    cfg.TEST.EXPECTED_RESULTS = []
    for key, value in cfg.DATASETS.items():
        if isinstance(value, (list, tuple)):
            cfg.DATASETS[key] = type(value)()
    return cfg
