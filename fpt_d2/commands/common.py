"""What the commands share besides :mod:`fpt_d2.cli`. Nothing that takes long is imported before it is needed."""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli import SCRIPTS, exit_on_user_errors, spelled
from ..errors import ConfigError, DatasetError, UserError

if TYPE_CHECKING:
    import numpy as np
    from detectron2.config import CfgNode
    from detectron2.data import Metadata
    from detectron2.structures import Instances

logger = logging.getLogger("fpt_d2.tools")


def tool_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows a command's docstring as it is written, the commands in it :func:`~fpt_d2.cli.spelled`."""
    description = re.sub("|".join(SCRIPTS), lambda name: spelled(name[0]), description or "")
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


@contextmanager
def users_files() -> Iterator[None]:
    """Raises UserError for a file or folder, named by the user, that cannot be read or written."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename} cannot be read or written: {error.strerror}" if error.filename else error
        raise UserError(str(what)) from error


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Raises DatasetError, which names the image ``file``, if it or its annotation cannot be read."""
    from ..data.labels import UNREADABLE

    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        raise DatasetError(f"{file} or its annotation cannot be read: {error}") from error


def read_test_set(cfg: CfgNode, num_images: int) -> tuple[list[dict[str, Any]], Metadata]:
    """The first images of a config's first test set, in Detectron2's dataset format, and its metadata.

    Raises:
        ConfigError: there is no such set.
    """
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from ..data import register_from_config

    register_from_config(cfg)
    names = tuple(cfg.DATASETS.TEST)
    if not names or names[0] not in DatasetCatalog:
        raise ConfigError(f"DATASETS.TEST is {names}: its first data set must be a registered one")
    return DatasetCatalog.get(names[0])[:num_images], MetadataCatalog.get(names[0])


def log_to_terminal() -> None:
    """Show what this project logs and what fvcore does, which loads the weights."""
    from detectron2.utils.logger import setup_logger

    for name in ("fpt_d2", "fvcore"):
        setup_logger(name=name)


def class_name(metadata: Metadata, label: int) -> str:
    """That of a class of objects; its number where it has none."""
    names: Sequence[str] = metadata.get("thing_classes") or []
    return names[label] if label < len(names) else f"class {label}"


def box_and_title(instances: Instances, index: int, metadata: Metadata) -> tuple[tuple[float, ...], str]:
    """Of a detection on the CPU: x1, y1, x2, y2, and a title such as "star 98%"."""
    name, score = class_name(metadata, int(instances.pred_classes[index])), float(instances.scores[index])
    return tuple(instances.pred_boxes.tensor[index].tolist()), f"{name} {score:.0%}"


def make_folder(path: str | Path) -> Path:
    """Make a folder that the user has named, unless it is there.

    Raises:
        UserError: it cannot be made or written to.
    """
    with users_files():
        Path(path).mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK):
        raise UserError(f"{path} cannot be written to: choose another folder")
    return Path(path)


def save_pictures(
    pictures: Iterable[tuple[str, np.ndarray]], folder: str, total: int, *, images: Iterable[str] = ()
) -> None:
    """Write each picture, RGB, as a JPEG of the name that comes with it.

    Raises:
        UserError: it cannot be written, or ``folder`` is that of one of these ``images``, which it might replace.
    """
    from PIL import Image
    from tqdm import tqdm

    path, count = make_folder(folder), 0
    for image in {Path(file).parent for file in images}:
        if image.is_dir() and path.samefile(image):
            raise UserError(f"--output {folder} holds images of the data set, which could be replaced: give another")
    for name, picture in tqdm(pictures, total=total, unit="image", disable=None):
        with users_files():
            Image.fromarray(picture).save(path / f"{name}.jpg")
        count += 1
    logger.info("Wrote %d pictures to %s", count, folder)


@exit_on_user_errors()
def rewrite_weights(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    rewrite: Callable[[dict[str, Any], str], tuple[dict[str, Any], str]],
) -> int:
    """A command from one file of weights to another.

    Args:
        parser: without options yet.
        argv: the command line, that of the process by default.
        rewrite: from weights by name and the name of the new file to its checkpoint and what to say of it.

    Returns:
        The exit status.
    """
    parser.add_argument("input", help="the weights: .pth or .pkl, or .safetensors where safetensors is installed")
    parser.add_argument("output", help="the file to write: .pkl or .pth")
    args = parser.parse_args(argv)
    from detectron2.utils.logger import setup_logger

    from ..checkpoint.files import read_state_dict, write_checkpoint

    setup_logger(name="fpt_d2")
    with users_files():
        checkpoint, what = rewrite(read_state_dict(args.input), args.output)
        write_checkpoint(checkpoint, args.output)
    logger.info("Wrote %s", what)
    return 0
