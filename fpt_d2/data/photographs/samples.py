"""Which image and which label file of a folder belong together, and to which split: for VOC, YOLO and LabelMe alike."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...cli import spelled
from ...errors import DatasetError
from ...paths import open_file, read_file
from ..images import IMAGE_SUFFIXES
from .folders import is_prepared

# Folders that say what is in them, not which image it is: train/images/a.jpg and train/labels/a.txt are one sample.
_KINDS = {"images", "labels", "annotations", "jpegimages", "imgs", "img", "xmls", "xml", "json", "jsons"}
_SPLIT = re.compile(r"(train|val|test)(ing|id|idation)?\d*", re.IGNORECASE)  # "valid" and "val2017" among them

_SUFFIXES = {"voc": ".xml", "yolo": ".txt", "labelme": ".json"}
_MOST_OPENED = 100  # files, to see of what format they are


@dataclass
class Sample:
    """Files of one name: whichever there are."""

    images: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)


def find_samples(source: Path, suffix: str, folders: Sequence[Path] | None = None) -> dict[str, Sample]:
    """Images and label files by name, which is the path in ``source`` without suffix and folders of a kind.

    Args:
        suffix: of the label files: ``".xml"``.
        folders: those that are searched, with all in them; ``source`` by default.
    """
    samples: defaultdict[str, Sample] = defaultdict(Sample)
    folders_passed: list[Path] = []
    for folder in folders or (source,):
        for path in _files(folder, set(), folders_passed):
            if path.suffix.lower() == suffix:
                samples[sample_name(source, path)].labels.append(path)
            elif path.name.lower().endswith(IMAGE_SUFFIXES):
                samples[sample_name(source, path)].images.append(path)
    for (
        path
    ) in folders_passed:  # one where the label file of an image should be, or the image, is named when it is read
        sample = samples.get(sample_name(source, path), Sample())
        if path.suffix.lower() == suffix:
            sample.labels += [] if sample.labels else [path]
        elif path.name.lower().endswith(IMAGE_SUFFIXES):
            sample.images += [] if sample.images else [path]
    return dict(sorted(samples.items()))


def _files(folder: Path, seen: set[Path], passed: list[Path] | None = None) -> Iterator[Path]:
    """All files below a folder but hidden ones and those of a prepared data set, through links, but no folder twice.

    The folders on the way are added to ``passed``.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        real = Path(place).resolve()
        if real in seen or is_prepared(real):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if passed is not None:
            passed += (Path(place, name) for name in folders)
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def sample_name(source: Path, path: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return "/".join([part for part in parts[:-1] if part.lower() not in _KINDS] + [parts[-1]])


def splits_by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """The names by the folders train, val and test in them; none where these are not at least two."""
    splits: dict[str, list[str]] = {}
    for name in names:
        found = [match[1].lower() for part in name.split("/")[:-1] if (match := _SPLIT.fullmatch(part))]
        if found:
            splits.setdefault(found[0], []).append(name)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits} if len(splits) > 1 else {}


def check_splits(splits: Mapping[str, Sequence[str]], where: object) -> None:
    """Raise DatasetError unless there are train and val, and no name is in two splits."""
    if not splits.get("train") or not splits.get("val"):
        raise DatasetError(
            f"{where} has images of {', '.join(splits)}, but train and val must both have some: add them, or set "
            "--val-share to split without regard to it"
        )
    first: dict[str, str] = {}
    for split, names in splits.items():
        for name in names:
            if first.setdefault(name, split) != split:
                raise DatasetError(
                    f"{where} has {name} in both {first[name]} and {split}: remove it from one, or set --val-share to "
                    "split without regard to it"
                )


def check_kind(source: Path, command: str, wanted: str) -> None:
    """Raise DatasetError if a folder has nothing of a format; the message says what it looks like instead.

    Args:
        command: of ``fpt-prepare`` for the format.
        wanted: the label files of the format, in words.
    """
    paths = list(_files(source, set()))
    labels = {
        kind: [path for path in paths if path.suffix.lower() == suffix][:_MOST_OPENED]
        for kind, suffix in _SUFFIXES.items()
    }
    if any(_is_of(command, file) for file in labels[command]):
        return
    found = [kind for kind in labels if any(_is_of(kind, file) for file in labels[kind])]
    coco = [file for file in labels["labelme"] if "annotations" in _keys(file)]
    if labels[command] and not found and not coco:  # files with mistakes, which are named later
        return
    instead = "it has images only: add the label files"
    if coco:
        instead = f"{coco[0]} looks like COCO's format, which DATASETS.REGISTER_COCO takes as it is"
    elif found:
        instead = f"it looks like a data set for `{spelled('fpt-prepare')} {found[0]}`"
    elif not any(path.name.lower().endswith(IMAGE_SUFFIXES) for path in paths):
        instead = f"it has no images ({', '.join(IMAGE_SUFFIXES)}) either: name the folder that holds both"
    raise DatasetError(f"{source} has no {wanted}: {instead}")


def _is_of(command: str, file: Path) -> bool:
    if command == "labelme":
        return "shapes" in _keys(file)
    try:
        with open_file(file) as opened:
            start = opened.read(1000)
    except OSError:  # which is named where the file is read
        return False
    return b"<annotation" in start if command == "voc" else bool(re.match(rb"\s*\d+([ \t]+-?[\d.]+){4}", start))


def _keys(file: Path) -> set[str]:
    try:
        content = json.loads(read_file(file))
    except (OSError, ValueError, RecursionError):
        return set()
    return {*content} if isinstance(content, dict) else set()
