"""Checkpoints that a kill at any moment, or a full disk, leaves whole."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..checkpoint import FPTCheckpointer
from ..checkpoint.finite import not_finite, state_not_finite
from .failures import diverged, in_sentences, writing
from .resumption import BEST_MODEL, LAST, UNFINISHED

__all__ = ["BEST_MODEL", "SafeCheckpointer"]


class _FinalNames(logging.LoggerAdapter):  # type: ignore[type-arg]  # generic from Python 3.11 on
    """Logs a file by the name that it is going to have."""

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        return str(msg).replace(UNFINISHED, ""), kwargs


class SafeCheckpointer(FPTCheckpointer):
    """The checkpointer with the report, writing each file under another name, syncing it to the disk and renaming it.

    ``last_checkpoint``, from which ``--resume`` goes on, thus always names a whole file, of finite weights. It never
    names the best model, which is older than the training is.
    """

    logger: Any
    # Names of the classes of objects ("thing") and of pixels ("stuff"), which are saved with the model.
    classes: Mapping[str, list[str]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _FinalNames(self.logger, {})

    def save(self, name: str, **kwargs: Any) -> None:
        """As in Detectron2.

        Raises:
            TrainingError: the weights are not finite, or the disk is full; nothing that was saved before is touched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        self._check_finite()
        path = os.path.join(self.save_dir, f"{name}.pth")
        with in_sentences(self.save_dir), writing(path), self._removed_if_unfinished(name):
            super().save(name + UNFINISHED, **({"classes": dict(self.classes)} if self.classes else {}), **kwargs)

    def _check_finite(self) -> None:
        wrong = not_finite(self.model)
        trainer = self.checkpointables.get("trainer")
        optimizer = getattr(getattr(trainer, "_trainer", trainer), "optimizer", None)
        wrong += state_not_finite(optimizer.state_dict()) if optimizer is not None else []
        if wrong:
            iteration = f" of iteration {trainer.iter}" if trainer is not None else ""
            raise diverged(f"{len(wrong)} tensors{iteration} are not finite, the first {wrong[0]}", self.save_dir)

    @contextlib.contextmanager
    def _removed_if_unfinished(self, name: str) -> Iterator[None]:
        """A file that did not fit would fill the disk for all others."""
        try:
            yield
        except BaseException:
            for rest in (f"{name}{UNFINISHED}.pth", LAST + UNFINISHED):
                with contextlib.suppress(OSError):
                    os.remove(os.path.join(self.save_dir, rest))
            raise

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Give the file, now complete, its name. Called by the inherited :meth:`save` as its last step."""
        name = last_filename_basename.replace(UNFINISHED, "")
        self._sync(last_filename_basename)
        if name == f"{BEST_MODEL}.pth":
            self._rename(last_filename_basename, name)
            return
        # Complete before the checkpoint has its name: where a kill comes in between, resumption finishes it.
        with open(os.path.join(self.save_dir, LAST + UNFINISHED), "w") as file:
            file.write(name)
        self._sync(LAST + UNFINISHED)
        self._rename(last_filename_basename, name)
        self._rename(LAST + UNFINISHED, LAST)

    def _sync(self, name: str) -> None:
        file = os.open(os.path.join(self.save_dir, name), os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)

    def _rename(self, old: str, new: str) -> None:
        os.replace(os.path.join(self.save_dir, old), os.path.join(self.save_dir, new))
        self._sync("")  # the folder, which holds the names
