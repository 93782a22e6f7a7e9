"""What a training writes besides its checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable

from detectron2.utils.events import EventWriter, JSONWriter, TensorboardXWriter

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
