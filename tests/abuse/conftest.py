"""The small data set and model of tests/engine, once for the whole catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.engine.conftest import fresh_loggers, one_thread, shapes, train_net

__all__ = ["fresh_loggers", "one_thread", "shapes", "train_net"]


@pytest.fixture(autouse=True)
def forgotten_data_sets() -> Iterator[None]:
    """Every case has a folder of its own behind the same names."""
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
