"""What a user can mend, said in one sentence. Any other exception is a mistake of ours and keeps its traceback."""

from __future__ import annotations


class UserError(ValueError):
    """Something that the user asked for cannot be done; the message says why and, where it can, what to do."""


class ConfigError(UserError):
    """A config file, or a KEY VALUE of the command line, that cannot be used."""


class DatasetError(UserError):
    """Data, or the description of a data set, that cannot be used."""


class WeightsError(UserError):
    """Weights that cannot be used."""


def require(fine: bool, sentence: str) -> None:
    """Raise a ConfigError with the sentence, unless all is fine."""
    if not fine:
        raise ConfigError(sentence)
