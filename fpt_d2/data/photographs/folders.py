"""What the preparations share: the folder that they write, and how they name what is wrong with a download.

Files are copied, not linked, so that the download may be moved or removed afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DatasetError
from ...paths import read_file, why
from ..checks.image_files import ImageFile, map_files, read_image_file
from ..findings import Findings
from ..synthetic.staging import staged_folder

INFO_FILE = "dataset.json"  # written into every prepared folder; by it --overwrite knows what it may replace

_PREPARED = "fpt_d2: "


@contextmanager
def prepared_folder(root: Path, source: Path, kind: str, *, overwrite: bool) -> Iterator[Path]:
    """A folder that becomes ``root`` when the block ends, and is gone when the block raises.

    Args:
        source: folder of the download.
        kind: of data set; only a folder of the same kind is replaced.

    Raises:
        DatasetError: the download does not exist, or lies where the prepared data set goes.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is of another kind.
    """
    if not source.is_dir():
        raise DatasetError(f"{source} is not a folder: name the folder of the download")
    real_root, real_source = root.resolve(), source.resolve()
    if real_root == real_source or real_root in real_source.parents:
        raise DatasetError(f"{source} lies where the prepared data set goes, {root}: move the download elsewhere")
    with staged_folder(root.absolute(), (INFO_FILE, _description(kind)), overwrite=overwrite) as staging:
        yield staging


def write_info(folder: Path, kind: str, **info: Any) -> None:
    """Write what a prepared data set is and how it came about."""
    write_json(folder / INFO_FILE, {"description": _description(kind), **info}, indent=2)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=indent), encoding="utf-8")


def is_prepared(folder: Path) -> bool:
    """Whether a folder was written by a preparation, of whatever kind."""
    try:
        content = json.loads(read_file(folder / INFO_FILE))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("description")).startswith(_PREPARED)


def _description(kind: str) -> str:
    return f"{_PREPARED}{kind} prepared from a download"


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder, without those that a system hides; none of one that is not there."""
    if not folder.is_dir():
        return set()
    return {entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith(".")}


def read_lines(file: Path) -> list[str]:
    """The lines of a list that are not empty. DatasetError if it is not text, or cannot be read."""
    try:
        lines = read_file(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not a list in UTF-8: save it as such") from error
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({why(error)})") from error
    return [line.strip() for line in lines if line.strip()]


def read_whole_image(path: Path) -> ImageFile:
    """What an image is, all of which is decoded.

    Raises one of `fpt_d2.data.images.UNDECODABLE` if it is not an image, or not a whole one.
    """
    return read_image_file(str(path))


def raise_findings(findings: Findings, what: str, remedy: str) -> None:
    """Raise DatasetError with everything that was found, if anything was."""
    if findings.counts:
        raise DatasetError(f"{what}: {'; '.join(findings.lines())}. Remedy: {remedy}")


def copy_files(tasks: Sequence[tuple[Path, Path]]) -> None:
    """Copy every (file, new file), in folders that exist."""
    for _ in map_files(lambda task: shutil.copyfile(*task), tasks, "copying images"):
        pass
