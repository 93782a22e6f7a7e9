"""The bundled data sets of shapes under their own names, but read from another folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from fpt_d2.data.datasets.bundled import SHAPES_ROOT, register_shapes


@contextmanager
def bundled_shapes(root: Path) -> Iterator[None]:
    """Until the end of the context they are those in ``root``."""
    _register_anew(str(root))
    yield
    _register_anew(SHAPES_ROOT)


def _register_anew(root: str) -> None:
    for name in [name for name in DatasetCatalog.list() if name.startswith("fpt_shapes")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for split in ("train", "val"):
        register_shapes(root, split)
