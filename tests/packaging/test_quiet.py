"""The messages that the commands keep from their users are those, and no others."""

from __future__ import annotations

import logging
import warnings

import pytest

from fpt_d2 import quiet

MESSAGES = [
    ("`torch.jit.trace` is deprecated. Please switch to `torch.compile`", FutureWarning, "torch.jit._trace"),
    ("`torch.cuda.amp.GradScaler(args...)` is deprecated.", FutureWarning, "detectron2.engine.train_loop"),
    ("You are using `torch.load` with `weights_only=False`", FutureWarning, "fvcore.common.checkpoint"),
    ("pkg_resources is deprecated as an API", UserWarning, "LabGym.detectron2.model_zoo"),
    ("The given NumPy array is not writable, and", UserWarning, "detectron2.data.detection_utils"),
    ("torch.meshgrid: in an upcoming release, it will", UserWarning, "torch.functional"),
    ("Detected call of `lr_scheduler.step()` before `optimizer.step()`", UserWarning, "torch.optim.lr_scheduler"),
]


def _warned(message: str, category: type[Warning], module: str) -> bool:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet.silence()
        warnings.warn_explicit(message, category, "file.py", 1, module)
    return bool(caught)


@pytest.mark.parametrize(("message", "category", "module"), MESSAGES)
def test_what_says_nothing_to_a_user_is_silent(message: str, category: type[Warning], module: str) -> None:
    assert not _warned(message, category, module)
    assert _warned(message, category, "__main__")  # a user's own code
    assert _warned("Your data are wrong", category, module)


def test_each_filter_has_a_message_here() -> None:
    assert len(MESSAGES) == len(quiet._WARNINGS)


@pytest.mark.parametrize(("name", "beginning"), quiet._LOGGED.items())
def test_so_is_what_torch_logs(name: str, beginning: str, caplog: pytest.LogCaptureFixture) -> None:
    quiet.silence()
    logger = logging.getLogger(name)
    monitored = logger.propagate
    logger.propagate = True
    try:
        logger.warning("%s of something", beginning)
        logger.warning("Your GPU is hot")
    finally:
        logger.propagate = monitored
    assert caplog.messages == ["Your GPU is hot"]
