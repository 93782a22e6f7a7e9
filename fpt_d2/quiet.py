"""What other packages tell their own authors, which the commands keep from their users.

Each entry names one message of one module: whatever else is warned of is shown.
"""

from __future__ import annotations

import logging
import warnings

_DETECTRON2 = r"(detectron2|LabGym)\b"
# Beginning of the message, category, module.
_WARNINGS: tuple[tuple[str, type[Warning], str], ...] = (
    (r"`torch\.jit\.\w+` is (deprecated|not supported)", FutureWarning, r"torch\.jit\."),
    (r"`torch\.cuda\.amp\.\w+\(args\.\.\.\)` is deprecated", FutureWarning, _DETECTRON2),
    (r"You are using `torch\.load` with `weights_only=False`", FutureWarning, r"(detectron2|LabGym|fvcore)\b"),
    ("pkg_resources is deprecated", UserWarning, _DETECTRON2),
    ("The given NumPy array is not writable", UserWarning, _DETECTRON2),
    (r"torch\.meshgrid: in an upcoming release", UserWarning, r"torch\.functional$"),
    # A step that the scale of mixed precision skips, which the schedule counts.
    (r"Detected call of `lr_scheduler\.step\(\)` before", UserWarning, r"torch\.optim\.lr_scheduler$"),
)
# Logger -> beginning of the message.
_LOGGED = {
    "torch.fx._symbolic_trace": "is_fx_tracing will return true",
    "torch.utils.cpp_extension": "No CUDA runtime is found",
}


def silence() -> None:
    """Ignore those messages in this process. No package is imported for it."""
    for message, category, module in _WARNINGS:
        warnings.filterwarnings("ignore", message, category, module)
    for name in _LOGGED:
        logging.getLogger(name).addFilter(_says_something)


def message_of(record: logging.LogRecord) -> str:
    """The message, or its pattern where the arguments do not fit: a handler tells of that, and nothing ends."""
    try:
        return record.getMessage()
    except (KeyError, TypeError, ValueError):
        return str(record.msg)


def _says_something(record: logging.LogRecord) -> bool:
    return not message_of(record).startswith(_LOGGED[record.name])
