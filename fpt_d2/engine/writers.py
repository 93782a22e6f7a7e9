"""What a training writes besides its checkpoints."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

from ..quiet import message_of
from .failures import writing

logger = logging.getLogger(__name__)

_FILES: dict[type[EventWriter], str] = {JSONWriter: "metrics.json", TensorboardXWriter: "events.out.tfevents"}


class _NamedWriter(EventWriter):
    """A writer whose errors name its file."""

    def __init__(self, writer: EventWriter, path: str) -> None:
        self._writer, self._path = writer, path

    def write(self) -> None:
        with writing(self._path):
            self._writer.write()

    def close(self) -> None:
        with writing(self._path):
            self._writer.close()


def named_writers(writers: Iterable[EventWriter], folder: str) -> list[EventWriter]:
    """Let Detectron2's writers say which file of the folder could not be written."""
    return [_NamedWriter(w, os.path.join(folder, _FILES[type(w)])) if type(w) in _FILES else w for w in writers]


class FirstProgress(HookBase):
    """A line after the first iteration, and where iterations are long one a minute; Detectron2's come every 20."""

    SILENCE = 60.0  # seconds

    def __init__(self, period: int = 20) -> None:
        """
        Args:
            period: iterations between two lines of Detectron2's.
        """
        self._period = period

    def before_train(self) -> None:
        self._start = self._told = time.perf_counter()

    def after_step(self) -> None:
        trainer, now = self.trainer, time.perf_counter()
        done, is_first = trainer.iter + 1, trainer.iter == trainer.start_iter
        if done % self._period == 0 or done == trainer.max_iter:
            self._told = now
        elif is_first or now - self._told >= self.SILENCE:
            loss = trainer.storage.latest().get("total_loss")
            losses = "" if loss is None else f": total_loss {loss[0]:.4g}"
            logger.info("Iteration %d of %d%s, %.1f s", done, trainer.max_iter, losses, now - self._start)
            self._told = now


# Messages of Detectron2 and fvcore that are for log.txt alone, by how they begin. Results are never among them: for
# some evaluators, such as PASCAL VOC's, the lines to copy and paste are all that there is.
_FOR_THE_FILE = re.compile(
    r"Rank of current process|Environment info|Command line arguments|Contents of args\.config_file|"
    r"Running with full config|Model:\n|Serializing (the dataset|\d+ elements)|Serialized dataset takes|"
    r"Making batched data loader|Using training sampler|\[DetectionCheckpointer\] Loading from  \.\.\."
)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class _Plain(logging.Formatter):
    """Another formatter's lines without colors, which a config that Detectron2 logs has wherever it goes."""

    def __init__(self, colored: logging.Formatter) -> None:
        super().__init__()
        self._colored = colored

    def format(self, record: logging.LogRecord) -> str:
        return _ESCAPES.sub("", self._colored.format(record))


def start_logging(folder: str, *, verbose: bool = False) -> None:
    """Set up the loggers of Detectron2, fvcore and this project, as Detectron2 does and then finds them.

    Colors go to a terminal alone. A log file that cannot be written says so once, in place of a traceback for every
    line.

    Args:
        folder: where ``log.txt`` is.
        verbose: show in the terminal, too, what only ``log.txt`` has otherwise.
    """
    for options in ({"name": "fpt_d2"}, {"name": "fvcore"}, {}):
        for handler in setup_logger(folder, distributed_rank=comm.get_rank(), **options).handlers:
            # There may be neither stdout nor stderr, or no longer the one that a handler was made for.
            if not isinstance(handler, logging.StreamHandler) or handler.stream is None or handler.stream.closed:
                continue
            if not handler.stream.isatty() and not isinstance(handler.formatter, _Plain):
                handler.setFormatter(_Plain(handler.formatter or logging.Formatter()))
            if handler.stream not in (sys.stdout, sys.stderr):
                setattr(handler, "handleError", partial(_give_up, handler))  # noqa: B010
            else:
                change = handler.removeFilter if verbose else handler.addFilter
                change(_is_for_the_terminal)


def _is_for_the_terminal(record: logging.LogRecord) -> bool:
    is_theirs = record.name.partition(".")[0] in ("detectron2", "fvcore")
    return not is_theirs or record.levelno > logging.INFO or not _FOR_THE_FILE.match(message_of(record))


def _give_up(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
    stream, error = handler.stream, sys.exc_info()[1]
    if not isinstance(error, OSError):  # a line that cannot be formatted
        logging.Handler.handleError(handler, record)
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())  # what it still holds is then written without error
    os.close(nowhere)
    sys.stderr.write(f"The log {getattr(stream, 'name', '')} ends here, where it cannot be written: {error}\n")
