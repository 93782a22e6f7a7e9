"""An image that the check could not find, or was not asked to, ends a training in a sentence too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abuse.cases import Place
from tests.engine.conftest import CONFIG


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_is_named(
    num_workers: int,
    split: str,
    tmp_path: Path,
    shapes: Path,
    train_net: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place(tmp_path, shapes, CONFIG)
    for path in place.images(split):
        path.write_bytes(path.read_bytes()[:500])
    words = ["DATASETS.CHECK", "False", "DATALOADER.NUM_WORKERS", str(num_workers), "SOLVER.MAX_ITER", "1"]
    assert train_net(["--config-file", str(place.config), *words]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train_net.py: ")]
    assert sentence.startswith(f"train_net.py: The image {place.root / split}") and "cannot be read" in sentence
