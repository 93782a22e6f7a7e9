"""The bundled data sets of shapes under their own names, but read from another folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from detectron2.data import DatasetCatalog, MetadataCatalog

from fpt_d2.data import builtin


@contextmanager
def bundled_shapes(root: Path) -> Iterator[None]:
    """Until the end of the context they are those in ``root``."""
    with mock.patch.object(builtin, "SHAPES_ROOT", str(root)):
        _register()
        yield
    _register()


def _register() -> None:
    for name in [name for name in DatasetCatalog.list() if name.startswith("fpt_shapes")]:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    for split in ("train", "val"):
        builtin._register_shapes(split)
