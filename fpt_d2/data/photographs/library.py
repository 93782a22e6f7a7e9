"""The library that reads a box of YOLO's and LabelMe's formats.

Chosen from what the package index has: `supervision` alone reads both and needs no OpenCV of its own, which would
overwrite the one that is there. Datumaro (opencv-python-headless below 5) and SAHI, PyLabel (opencv-python) do;
labelformat and labelme2coco read one of the two, globox boxes only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ...errors import UserError


def load_reader(module: str, function: str) -> Callable[..., Any]:
    """A function of ``supervision.dataset.formats``. UserError where supervision is missing or too old."""
    try:
        reader: Callable[..., Any] = getattr(import_module(f"supervision.dataset.formats.{module}"), function)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"Labels of this format need supervision 0.31 or newer ({error}): pip install 'fpt_d2[convert]', or "
            "'supervision>=0.31'"
        ) from error

    def read(*args: Any, **options: Any) -> Any:
        with np.errstate(over="ignore", invalid="ignore"):  # it refuses what has overflowed
            return reader(*args, **options)

    return read
