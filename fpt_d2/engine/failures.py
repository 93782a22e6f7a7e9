"""What ends a training and is no mistake of ours, in one sentence: a full disk, losses that are not finite, silence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import torch.distributed as dist

from ..checkpoint.finite import not_finite
from ..errors import LostProcess, Terminated, TrainingError, UserError, disk_sentence, interruption, is_of_disk
from .resumption import go_on, newest_whole

# How gloo and NCCL speak of a process that is gone or silent.
_SILENT = re.compile(r"timed out|timeout|wait timeout", re.IGNORECASE)
_GONE = re.compile(r"connection (was )?(closed|reset|refused|aborted)|broken pipe|socket|remote process", re.IGNORECASE)
_SPEAKERS = re.compile(r"gloo|nccl|store", re.IGNORECASE)
# How torch.save speaks of a file that takes nothing more.
_WRITER = re.compile(r"inline_container|PytorchStreamWriter")
# In Detectron2's sentence about losses; numpy 2 writes its numbers as np.float64(nan).
_LOSSES = re.compile(r"'([^']+)': (?:np\.float\d+\()?([-+\w.]+)")


@contextmanager
def in_sentences(folder: str = "", *, timeout: int = 0, trainer: Any = None) -> Iterator[None]:
    """Raise a TrainingError for what ends a training and is no mistake of ours, whose traceback is then not logged.

    Args:
        folder: of the training's output.
        timeout: seconds that the processes wait for each other; without it what they say of each other stays as it is.
        trainer: Detectron2's, which knows the iteration, the losses and the model.
    """

    withheld: list[logging.LogRecord] = []

    def withhold(record: logging.LogRecord) -> bool:
        if record.exc_info:
            withheld.append(record)
        return not record.exc_info

    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(withhold)
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt as error:
        if trainer is None:
            raise
        raise Terminated(interruption(error), go_on(folder)) from error
    except Exception as error:
        # Data workers of an evaluation have got it too, and died of it.
        if (signum := _signal(trainer)) and "DataLoader worker" in str(error):
            raise Terminated(signum, go_on(folder)) from error
        reason = _reason(error, folder) or _numbers(error, trainer)
        if reason is None:
            loop.removeFilter(withhold)
            for record in withheld:
                loop.handle(record)
            raise
        if isinstance(reason, RuntimeError) and not timeout:
            raise
        raise _sentence(reason, folder, timeout, trainer) from error
    finally:
        loop.removeFilter(withhold)


def _signal(trainer: Any) -> int:
    """The number of the signal by which a training was asked to end; 0 where it was not."""
    return max((getattr(hook, "signum", 0) for hook in getattr(trainer, "_hooks", ())), default=0)


def _reason(error: Exception, folder: str) -> BaseException | None:
    """What of an exception and its causes a sentence can be made of: of the disk an OSError, of other processes a
    RuntimeError, of numbers a FloatingPointError. None where it is a mistake.
    """
    cause: BaseException | None = error
    is_hidden = False
    while cause is not None:
        if isinstance(cause, (UserError, FloatingPointError)):
            return cause
        if isinstance(cause, OSError) and (is_of_disk(cause) or _cannot_be_written(cause, folder)):
            return cause
        if isinstance(cause, RuntimeError) and dist.is_initialized() and _SPEAKERS.search(str(cause)):
            if _SILENT.search(str(cause)) or _GONE.search(str(cause)):
                return cause
        # An exception in whose handling another one came is no cause of it, but for torch's writer, which hides it so,
        # and for Detectron2's end of a training, which also comes after one that has failed.
        is_hidden |= isinstance(cause, RuntimeError) and _WRITER.search(str(cause)) is not None
        is_hidden |= any(frame.f_code.co_name == "after_train" for frame, _ in walk_tb(cause.__traceback__))
        cause = cause.__cause__ or (cause.__context__ if is_hidden else None)
    return None


def _numbers(error: Exception, trainer: Any) -> FloatingPointError | None:
    """Where weights are not finite: what NaN makes of a model's code is not known."""
    try:
        wrong = trainer is not None and not_finite(trainer.model)
    except RuntimeError:  # a GPU that has failed answers nothing any more
        return None
    return FloatingPointError(f"{type(error).__name__}: {error}") if wrong else None


def _sentence(reason: BaseException, folder: str, timeout: int, trainer: Any) -> UserError:
    if isinstance(reason, UserError):
        return reason
    if isinstance(reason, FloatingPointError):
        return diverged(_losses(str(reason), trainer), folder)
    if isinstance(reason, OSError):
        reason.filename = reason.filename or folder or None
        safe = f"{what_is_safe(folder)}: make room, and start it again, a training with --resume"
        return TrainingError(f"{disk_sentence(reason)}; {safe}" if folder else disk_sentence(reason))
    if _SILENT.search(str(reason)):
        return LostProcess(f"A process of the training has not answered the others for {timeout} seconds (--timeout)")
    return LostProcess("Another process of the training has ended, and says why itself")


def _losses(message: str, trainer: Any) -> str:
    """What is not finite: the losses that Detectron2 names, or what it says and the last losses that were."""
    at = f" of iteration {trainer.iter}" if trainer else ""
    losses = ", ".join(f"{name} {value}" for name, value in _LOSSES.findall(message))
    if losses:
        return f"The losses{at} are not finite ({losses})"
    logged = trainer.storage.latest() if trainer else {}
    before = ", ".join(f"{name} {value:.4g}" for name, (value, _) in logged.items() if "loss" in name)
    said = " ".join(message.split()).rstrip(".")
    return f"The numbers{at} are not finite ({said}; the losses before: {before or 'none'})"


def _cannot_be_written(error: OSError, folder: str) -> bool:
    """Whether something in the folder stands in the way; a file that is not there is missed by a mistake of ours."""
    path, inside = error.filename, os.path.abspath(folder) + os.sep
    in_the_way = isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError))
    return in_the_way and bool(folder) and isinstance(path, str) and os.path.abspath(path).startswith(inside)


def diverged(what: str, folder: str) -> TrainingError:
    """``what`` is not finite, and what to do."""
    return TrainingError(
        f"{what}, and nothing of it is saved; {what_is_safe(folder)}: train anew in another OUTPUT_DIR with a lower "
        "SOLVER.BASE_LR, a longer SOLVER.WARMUP_ITERS, SOLVER.CLIP_GRADIENTS.ENABLED True or SOLVER.AMP.ENABLED False"
    )


def what_is_safe(folder: str) -> str:
    """The part of a sentence that names the checkpoint to go on from."""
    last = newest_whole(folder) if folder else ""
    return f"the last whole checkpoint is {last}" if last else "there is no checkpoint yet"


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Give the OSErrors of writing a file its name, which those of a full disk lack; also where torch hides them."""
    try:
        yield
    except Exception as error:
        if isinstance(reason := _reason(error, ""), OSError):
            raise OSError(reason.errno, reason.strerror, path) from error
        raise
