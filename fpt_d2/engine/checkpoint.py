"""Checkpoints that a kill at any moment leaves whole."""

from __future__ import annotations

import logging
import os
from typing import Any

from ..checkpoint import FPTCheckpointer

BEST_MODEL = "model_best"
_UNFINISHED = ".unfinished"


class _FinalNames(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic from Python 3.11 on
    """Logs a file by the name that it is going to have."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return str(msg).replace(_UNFINISHED, ""), kwargs


class SafeCheckpointer(FPTCheckpointer):
    """The checkpointer with the report, writing each file under another name and renaming it when it is complete.

    ``last_checkpoint``, from which ``--resume`` goes on, thus always names a whole file. It never names the best
    model, which is older than the training is.
    """

    logger: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _FinalNames(self.logger, {})

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name + _UNFINISHED, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Give the file, now complete, its name. Called by the inherited :meth:`save` as its last step."""
        name = last_filename_basename.replace(_UNFINISHED, "")
        self._rename(last_filename_basename, name)
        if name != f"{BEST_MODEL}.pth":
            tag = "last_checkpoint"
            with open(os.path.join(self.save_dir, tag + _UNFINISHED), "w") as file:
                file.write(name)
            self._rename(tag + _UNFINISHED, tag)

    def _rename(self, old: str, new: str) -> None:
        os.replace(os.path.join(self.save_dir, old), os.path.join(self.save_dir, new))
