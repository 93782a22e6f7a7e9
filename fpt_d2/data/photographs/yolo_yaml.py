"""What ``data.yaml`` says of a data set in YOLO's format."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from ...errors import DatasetError
from ...paths import read_file, why
from .folders import read_lines
from .samples import Sample

logger = logging.getLogger(__name__)

_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_SPLITS = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class YoloYaml:
    """
    Attributes:
        file: the file; None where there is none, and everything else is empty.
        source: the folder of the data set.
    """

    file: Path | None
    source: Path
    content: Mapping[str, Any] = field(default_factory=dict)

    def classes(self) -> list[str] | None:
        """The names of the classes by number, None where it has none.

        Raises:
            DatasetError: they are not a list of different names, or a mapping from 0, 1, ... to such.
        """
        names = self.content.get("names")
        if names is None:
            return None
        if isinstance(names, dict):
            numbered = {str(number).strip(): name for number, name in names.items()}
            if {*numbered} != {str(number) for number in range(len(names))}:
                found = short(list(names))
                raise DatasetError(f"{self.file}: names must have the numbers 0 to {len(names) - 1}, not {found}")
            names = [numbered[str(number)] for number in range(len(names))]
        if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
            raise DatasetError(f"{self.file}: names must be a list of names, or a mapping from 0, 1, ... to names")
        if any(isinstance(name, bool) for name in names):
            raise DatasetError(f"{self.file}: YAML takes yes, no, on and off for true and false: quote these names")
        check_names(classes := [str(name).strip() for name in names], self.file)
        if (number := self.content.get("nc", len(classes))) != len(classes):
            raise DatasetError(
                f"{self.file}: nc is {short(number)}, but there are {len(classes)} names: correct one of them"
            )
        return classes

    def num_keypoint_values(self) -> int:
        """How many numbers of keypoints follow a box, by ``kpt_shape``."""
        shape = self.content.get("kpt_shape")
        if shape is None:
            return 0
        if not isinstance(shape, list) or len(shape) != 2 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise DatasetError(
                f"{self.file}: kpt_shape must be two numbers, of keypoints and of values, not {short(shape)}"
            )
        return int(shape[0] * shape[1])

    def splits(self, samples: Mapping[str, Sample]) -> dict[str, list[str]]:
        """Names of the images of each split; none where it does not say so."""
        by_path = {image.resolve(): name for name, sample in samples.items() for image in sample.images}
        splits = {}
        for split, keys in _SPLITS.items():
            entries: Any = next((self.content[key] for key in keys if self.content.get(key)), [])
            entries = [entries] if isinstance(entries, str) else entries
            if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
                raise DatasetError(f"{self.file}: {split} must be a path or a list of paths, not {short(entries)}")
            names = [name for entry in entries for name in self._names(split, entry, by_path)]
            if names or (entries and split != "test"):
                splits[split] = list(dict.fromkeys(names))
        return splits

    def _names(self, split: str, entry: str, by_path: Mapping[Path, str]) -> list[str]:
        """The images of a folder, of a list of images, or the one image."""
        path = self._resolve(split, entry)
        if path is None:
            return []
        if path.suffix.lower() != ".txt":
            return [name for image, name in by_path.items() if image == path or path in image.parents]
        images = {line: (path.parent / line).resolve() for line in read_lines(path)}
        if missing := [line for line, image in images.items() if image not in by_path]:
            raise DatasetError(
                f"{path} lists {len(missing)} images that are not in {self.source}, first {missing[0]}: correct the "
                "paths, which start at the list's folder, or set --val-share to split without it"
            )
        return [by_path[image] for image in images.values()]

    def _resolve(self, split: str, entry: str) -> Path | None:
        """The path of a split: from ``path``, or from the file; some exporters write a ``../`` too many.

        None for a split that is missing and may be.
        """
        root = str(self.content.get("path") or ".")
        tried = (self.source / root / entry, self.source / entry, self.source / entry.lstrip("./"))
        inside = [path.resolve() for path in tried if os.path.exists(path)]  # False for what cannot be a path
        for path in inside:
            if path == self.source.resolve() or self.source.resolve() in path.parents:
                return path
        if split == "test" and not inside:  # some exporters name it where there is none
            logger.warning("Left out: the split test of %s, since %s does not exist", self.file, short(entry))
            return None
        raise DatasetError(
            f"{self.file}: {split} is {short(entry)}, which is not in {self.source}: correct the path, or set "
            "--val-share to split without it"
        )


def check_names(names: Sequence[str], where: object) -> None:
    """Raise DatasetError if a name is empty or there twice."""
    if not names or not all(names):
        raise DatasetError(f"{where}: a class has no name")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise DatasetError(f"{where}: two classes have the name {twice[0]}: rename one")


def read_yaml(source: Path) -> YoloYaml:
    """``data.yaml``, or the only YAML file with names or splits.

    Raises:
        DatasetError: it is not YAML, or there are several.
    """
    usual = [source / name for name in _USUAL if (source / name).is_file()][:1]
    files = usual or sorted(path for path in source.iterdir() if path.suffix.lower() in (".yaml", ".yml"))
    found = [(file, content) for file in files if isinstance(content := _load(file), dict)]
    found = [(file, content) for file, content in found if "names" in content or "train" in content]
    if usual and not found:
        raise DatasetError(f"{usual[0]} has neither names nor train: add the names of the classes")
    if len(found) > 1:
        several = ", ".join(file.name for file, _ in found)
        raise DatasetError(f"{source} has {several}: rename the right one to data.yaml")
    return YoloYaml(found[0][0], source, found[0][1]) if found else YoloYaml(None, source)


def _load(file: Path) -> Any:
    try:
        return yaml.safe_load(read_file(file))
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({why(error)})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DatasetError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
