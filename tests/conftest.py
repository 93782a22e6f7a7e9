"""Read before any test, and before anything imports Triton, which decides on its import where kernels run."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # on the CPU, in Python
