"""What a case of the catalogue is, and the data set and config that it spoils."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class Place:
    """A folder with a small data set, ``tiny_train`` and ``tiny_val``, and a config of a small model on it.

    Attributes:
        root: holds ``annotations/instances_{train,val}.json`` and the images in ``train`` and ``val``.
        config: the config file; its ``OUTPUT_DIR`` is ``out``.
        out: where the training writes, not made yet.
    """

    def __init__(self, root: Path, shapes: Path, config: dict[str, Any]) -> None:
        self.root, self.config, self.out = root, root / "config.yaml", root / "out"
        shutil.copytree(shapes, root, dirs_exist_ok=True)
        sets = [[f"tiny_{split}", str(self.annotations(split)), str(root / split)] for split in ("train", "val")]
        datasets = {"TRAIN": ["tiny_train"], "TEST": ["tiny_val"], "REGISTER_COCO": sets}
        self.config.write_text(yaml.safe_dump({"DATASETS": datasets, "OUTPUT_DIR": str(self.out), **config}))

    def annotations(self, split: str = "train") -> Path:
        return self.root / "annotations" / f"instances_{split}.json"

    def edit(self, change: Callable[[dict[str, Any]], Any], split: str = "train") -> None:
        """Change the content of an annotation file in place."""
        content = json.loads(self.annotations(split).read_text())
        change(content)
        self.annotations(split).write_text(json.dumps(content))

    def images(self, split: str = "train") -> list[Path]:
        return sorted((self.root / split).iterdir())


@dataclass(frozen=True)
class Case:
    """An input of the catalogue, and what is right.

    Attributes:
        name: what is wrong, in a few words.
        spoil: makes it so, and returns what else stands on train_net.py's command line.
        says: a part of the answer, on stderr where ``status`` is 2, otherwise there or in what was logged.
        status: of train_net.py. With 2 the answer is a sentence, and nothing is written.
    """

    name: str
    spoil: Callable[[Place], Sequence[object] | None]
    says: str
    status: int = 2
