"""What a user can mend, said in one sentence. Any other exception is a mistake of ours and keeps its traceback."""

from __future__ import annotations

import errno
import signal

# Of Ctrl-C, of a scheduler that ends a job, of one that is asked to tell it before (sbatch --signal=USR1@120), and of a
# terminal that is closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# What a disk answers that takes nothing more.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO, errno.ESTALE}


class UserError(ValueError):
    """Something that the user asked for cannot be done; the message says why and, where it can, what to do.

    Names out of files are part of such messages: what would steer a terminal stands there as :func:`printable` has it.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(arg, keep="\n\t") if isinstance(arg, str) else arg for arg in args))


class ConfigError(UserError):
    """A config file, or a KEY VALUE of the command line, that cannot be used."""


class DatasetError(UserError):
    """Data, or the description of a data set, that cannot be used."""


class WeightsError(UserError):
    """Weights that cannot be used."""


def printable(text: str, keep: str = "") -> str:
    """A text in which control characters and lone surrogates, but those of ``keep``, stand as Python writes them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def require(fine: bool, sentence: str) -> None:
    """Raise a ConfigError with the sentence, unless all is fine."""
    if not fine:
        raise ConfigError(sentence)


class TrainingError(UserError):
    """A training that cannot go on: the disk is full, its numbers are not finite, or one of its processes has died."""


class LostProcess(TrainingError):
    """Another process of the training does not answer."""


class Terminated(KeyboardInterrupt):
    """What KeyboardInterrupt is to Ctrl-C, to any signal that asks a process to end."""

    def __init__(self, signum: int, note: str = "") -> None:
        """
        Args:
            signum: number of the signal.
            note: what to do now.
        """
        super().__init__(signum)
        self.signum, self.note = signum, note


def interruption(error: KeyboardInterrupt) -> int:
    """The number of the signal that has raised it."""
    return error.signum if isinstance(error, Terminated) else int(signal.SIGINT)


def is_of_disk(error: OSError) -> bool:
    """Whether the disk is full, read-only or broken, which no code can help."""
    return error.errno in _DISK


def disk_sentence(error: OSError) -> str:
    return f"{error.filename or 'A file'} cannot be written: {error.strerror or error}"
