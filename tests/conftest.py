"""Read before any test, and before anything imports Triton, which decides on its import where kernels run."""

from __future__ import annotations

import os
import signal

import torch

# Under nohup SIGHUP is ignored, by the processes that tests start too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # on the CPU, in Python
