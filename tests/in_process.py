"""Commands that a test runs in its own process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.loggers import forget_loggers


@contextmanager
def running_commands(*data_sets: str) -> Iterator[None]:
    """Run them with one thread, and leave nothing of these data sets and of the loggers behind."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for name in data_sets:
            if name in DatasetCatalog:
                DatasetCatalog.remove(name)
                MetadataCatalog.remove(name)
        forget_loggers()
