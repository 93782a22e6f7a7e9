"""The config that trains on a data set of one's own: as words of a command, and as a file over another config."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, DatasetError
from .common import logger

_FOR_OBJECTS = ("GeneralizedRCNN", "RetinaNet", "ProposalNetwork")


def plan_config(name: str, base: str | None, *, overwrite: bool) -> Path | None:
    """The file to write over the config ``base``, before anything is: None where no config is given.

    Raises:
        UserError: the base cannot be read, is the file itself or of a model of another kind, or a file is in the way.
    """
    from ..config_file import read_config
    from ..config_path import find_config_file

    if not base:
        return None
    architecture, path = read_config(base).MODEL.META_ARCHITECTURE, Path(f"{name}.yaml")
    if architecture not in _FOR_OBJECTS:
        allowed = ", ".join(_FOR_OBJECTS)
        raise ConfigError(f"{base} is of a {architecture}, which does not learn from boxes: take a config of {allowed}")
    if path.exists() and path.samefile(find_config_file(base)):
        raise DatasetError(f"{path} is the config itself, which would be replaced: choose another --name")
    if path.is_dir():
        raise DatasetError(f"{path} is a folder: choose another --name")
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} is there already: add --overwrite to replace it, or choose another --name")
    return path


def write_config(path: Path, base: str, words: Sequence[str]) -> None:
    """Write a config of these ``KEY VALUE`` pairs over ``base``; a different file in its place is kept as .bak."""
    from ..config_file import read_config
    from ..config_path import find_config_file

    cfg = read_config(base, words)
    content: dict[str, Any] = {"_BASE_": os.path.abspath(find_config_file(base))}
    for key in words[::2]:
        *sections, name = key.split(".")
        place, values = content, cfg
        for section in sections:
            place, values = place.setdefault(section, {}), values[section]
        place[name] = values[name]
    text = yaml.safe_dump(content | {"VERSION": 2}, allow_unicode=True, sort_keys=False).encode()
    if path.exists() and path.read_bytes() != text:
        logger.info("Kept the former %s as %s", path, path.replace(f"{path}.bak"))
    path.write_bytes(text)
    logger.info("Wrote %s: %s with this data set", path, base)


def config_words(name: str, root: Path, info: dict[str, Any], is_registered: bool) -> str:
    """The keys and values with which a config trains on a data set, as a shell takes them."""
    files = [
        (f"{name}_{split}", str(root / "annotations" / f"instances_{split}.json"), str(root / "images"))
        for split in info["splits"]
    ]
    words = [] if is_registered else ["DATASETS.REGISTER_COCO", _quoted(files)]
    words += ["DATASETS.TRAIN", f"'(\"{name}_train\",)'", "DATASETS.TEST", f"'(\"{name}_val\",)'"]
    for head in ("ROI_HEADS", "RETINANET"):
        words += [f"MODEL.{head}.NUM_CLASSES", str(len(info["classes"]))]
    words += ["TEST.EXPECTED_RESULTS", "'[]'"]  # a quick schedule has those of its own data
    # Polygons are what a config reads by default, if it has masks.
    words += {None: ["MODEL.MASK_ON", "False"], "bitmask": ["INPUT.MASK_FORMAT", "bitmask"]}.get(info["masks"], [])
    return " ".join(words)


def _quoted(entries: Sequence[tuple[str, ...]]) -> str:
    """A config's value as a shell takes it."""
    inner = ", ".join(
        "(" + ", ".join(json.dumps(text, ensure_ascii=False) for text in entry) + ")" for entry in entries
    )
    return shlex.quote(f"({inner})")
