"""A folder that appears only when it is complete, and never takes the place of what is not a generated data set."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Union


@contextmanager
def staged_folder(
    root: Union[str, os.PathLike], is_replaceable: Callable[[Path], bool], *, overwrite: bool
) -> Iterator[Path]:
    """A folder to write a data set into; it becomes ``root`` when the block ends, and is gone when the block raises.

    Args:
        root: folder of the data set; its parents are made if needed.
        is_replaceable: whether an existing folder is a data set of the generator that asks.
        overwrite: replace such a data set.

    Raises:
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is something else.
    """
    root = Path(root).absolute()
    if root.exists():
        if not is_replaceable(root):
            raise FileExistsError(
                f"{root} exists and is not a synthetic data set of this kind: choose another folder, or remove it."
            )
        if not overwrite:
            raise FileExistsError(f"{root} holds a data set already: overwrite=True (--overwrite) replaces it.")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside its final place, so that the last step is a rename; an interruption leaves nothing that looks complete.
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as parent:
        staging = Path(parent) / root.name
        staging.mkdir()
        yield staging
        if root.exists():
            shutil.rmtree(root)
        staging.rename(root)
