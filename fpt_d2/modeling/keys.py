"""From the arguments of a constructor to the config keys that they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from detectron2.layers import get_norm
from torch import nn

from ..core import ArgumentError
from ..core.arguments import one_of
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


def check_norm(key: str, name: str, channels: int) -> None:
    """
    Raises:
        ConfigError: ``name``, the value of ``key``, is not a normalisation of ``channels`` channels.
    """
    if name not in NORMS:
        raise ConfigError(f"{key} is {name!r}; allowed: {one_of(NORMS)}")
    if name == "GN" and channels % 32:
        raise ConfigError(f"{key} is 'GN', which needs a multiple of 32 channels; there are {channels}")


class NormFactory:
    """Detectron2's ``get_norm`` for one name, as what makes a normalisation from its channels."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, channels: int) -> nn.Module:
        return get_norm(self.name, channels)  # type: ignore[no-any-return]
