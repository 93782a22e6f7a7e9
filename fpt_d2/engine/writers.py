"""What a training writes besides its checkpoints."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from detectron2.utils import comm
from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter
from detectron2.utils.logger import setup_logger

from .failures import writing

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


def start_logging(folder: str) -> None:
    """Set up the loggers of Detectron2, fvcore and this project, as Detectron2 does and then finds them.

    A log file that cannot be written says so once, in place of a traceback for every line.
    """
    for options in ({"name": "fpt_d2"}, {"name": "fvcore"}, {}):
        for handler in setup_logger(folder, distributed_rank=comm.get_rank(), **options).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream not in (sys.stdout, sys.stderr):
                setattr(handler, "handleError", partial(_give_up, handler))  # noqa: B010


def _give_up(handler: logging.StreamHandler[Any], record: logging.LogRecord) -> None:
    stream, error = handler.stream, sys.exc_info()[1]
    if not isinstance(error, OSError):  # a line that cannot be formatted
        logging.Handler.handleError(handler, record)
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())  # what it still holds is then written without error
    os.close(nowhere)
    sys.stderr.write(f"The log {getattr(stream, 'name', '')} ends here, where it cannot be written: {error}\n")
