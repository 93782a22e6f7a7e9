"""The small data set and model of tests/engine, once for the whole catalogue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from tests.engine.conftest import fresh_loggers, one_thread, shapes, train_net

__all__ = ["fresh_loggers", "one_thread", "shapes", "train_net"]


@pytest.fixture(autouse=True)
def fresh_data_sets() -> Iterator[None]:
    """Each case has data sets of the same names in a folder of its own."""
    forget_data_sets()
    yield
    forget_data_sets()


def forget_data_sets() -> None:
    """Let the next case register its own."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [name for name in catalog.list() if name.startswith("tiny_")]:
            catalog.remove(name)
