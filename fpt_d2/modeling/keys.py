"""From the arguments of a constructor to the config keys that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import get_norm

from ..core import ArgumentError
from ..core.arguments import one_of
from ..core.transformers import Norm
from ..errors import ConfigError

# What Detectron2's get_norm knows.
NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")


@contextmanager
def arguments_from(section: str, **keys: str) -> Iterator[None]:
    """A context in which a refused argument is reported as the config key that it comes from.

    Args:
        section: of the config, such as "MODEL.FPT".
        keys: the key within it of each argument of the constructors called.

    Raises:
        ConfigError: in place of an :class:`.core.ArgumentError`.
    """
    try:
        yield
    except ArgumentError as error:
        key = keys.get(error.argument, error.argument.upper())
        raise ConfigError(f"{section}.{key} is {error.value!r}; allowed: {error.allowed}") from error


def check_norm(cfg: CfgNode, key: str, width: str, *, share: int = 1) -> None:
    """Check the normalisation of ``MODEL.{key}`` for the channels of ``MODEL.{width}``.

    Args:
        key, width: such as "FPN.NORM" and "FPN.OUT_CHANNELS".
        share: the narrowest of the normalised maps has ``1 / share`` of the channels.

    Raises:
        ConfigError: it is unknown, or cannot be had for so many channels.
    """
    name, channels = (cfg.MODEL[section][leaf] for section, leaf in (key.split("."), width.split(".")))
    if name not in NORMS:
        raise ConfigError(f"MODEL.{key} is {name!r}; allowed: {one_of(NORMS)}")
    if name == "GN" and channels % (32 * share):
        raise ConfigError(
            f"MODEL.{key} is 'GN'; allowed: 'GN' where {32 * share} divides MODEL.{width}, which is {channels}"
        )


def norm_factory(name: str) -> Norm:
    """Detectron2's ``get_norm`` for one name, as what makes a normalisation from its channels; None for no norm."""
    return partial(get_norm, name) if name else None
