"""This project's configs by name, from a checkout as from an installed package; after ``detectron2.model_zoo``."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigError

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from omegaconf import DictConfig


def get_config_file(name: str) -> str:
    """Find a config of this project.

    Args:
        name: path inside ``configs/``, such as ``"COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"``, or ``.py`` for the
            lazy config.

    Returns:
        The path of that file.

    Raises:
        ConfigError: there is no such config; the message has the names nearest to it.
    """
    root = bundled("configs")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*") if path.suffix in (".yaml", ".py"))
    if name in names:
        return str(root / name)
    if replacement := replacement_for(name):
        raise ConfigError(f"{name} is no longer a config of its own: use {replacement}")
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
    raise ConfigError(f"fpt_d2 has no config {name!r}; the nearest are: {', '.join(near or names)}")


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """Read a config of this project over Detectron2's defaults and this project's.

    Args:
        name: as for :func:`get_config_file`.
        trained: in Detectron2, asks for the weights trained with the config. None have been published for FPT.

    Returns:
        The config, which can still be changed; of a ``.py`` file what ``LazyConfig.load`` returns.

    Raises:
        ConfigError: there is no such config, or it needs a project that this Detectron2 comes without.
        RuntimeError: ``trained`` is set.
    """
    config_file = get_config_file(name)
    if trained:
        raise RuntimeError(
            f"no weights trained with {name} are published: set MODEL.WEIGHTS to your own, or to those of a Detectron2 "
            "FPN model (detectron2.model_zoo.get_checkpoint_url), which FPT starts from"
        )
    if config_file.endswith(".py"):
        from detectron2.config import LazyConfig

        return LazyConfig.load(config_file)
    from .config_file import read_config

    return read_config(config_file)


def replacement_for(config_file: str) -> str | None:
    """What does the same as a config that has been removed: another file, and the KEY VALUE pairs to add to it."""
    moved: dict[str, str] = json.loads((bundled("configs") / "moved.json").read_text(encoding="utf-8"))
    return moved.get("/".join(Path(config_file).parts[-2:]))


def bundled(folder: str) -> Path:
    """``configs`` or ``recipes``, which lie in an installed package, and beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / folder
    return installed if installed.is_dir() else package.parent / folder


def find_bundled(name: str, folder: str) -> Path | None:
    """The bundled file of a name in ``configs`` or ``recipes``, with or without the folder before it; None if there is
    none."""
    inside = Path(name.removeprefix(f"{folder}/"))
    path = bundled(folder) / inside
    return None if inside.is_absolute() or ".." in inside.parts or not path.is_file() else path
