"""What Panoptic FPN reads besides an annotation file is checked before a training too."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpt_d2.data import DatasetError, check_datasets
from fpt_d2.data.datasets.bundled import register_shapes

MASKS, SEGMENTS = "panoptic_stuff_rare", "panoptic_rare"


@pytest.fixture
def root(shapes_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(shapes_root, tmp_path / "shapes")
    for path in [*(tmp_path / "shapes").glob("*val*"), *(tmp_path / "shapes" / "annotations").glob("*val*")]:
        path.rename(path.with_name(path.name.replace("val", "rare")))
    return tmp_path / "shapes"


@pytest.fixture
def panoptic(cfg: CfgNode, root: Path, catalogs: None) -> Iterator[CfgNode]:
    register_shapes(str(root), "rare")
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = "PanopticFPN", 5
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("fpt_shapes_panoptic_rare",)
    yield cfg


def first(root: Path, folder: str) -> Path:
    return min((root / folder).iterdir())


def replaced(folder: str, write: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def spoil(root: Path) -> None:
        path = first(root, folder)
        path.unlink()
        write(path)

    return spoil


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def spoil(root: Path) -> None:
        path = root / "annotations" / f"{SEGMENTS}.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def label_77(path: Path) -> None:
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(path)


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a mask is missing": (replaced(MASKS, lambda path: None), "semantic mask does not exist (1): "),
    "a mask is a pipe": (replaced(MASKS, os.mkfifo), "(it is a pipe, not a file)"),
    "a mask is small": (replaced(MASKS, label_77), "mask has another size than its image (1): "),
    "the masks": (lambda root: shutil.rmtree(root / MASKS), "semantic mask does not exist (12): "),
    "a label is no class": (
        lambda root: Image.fromarray(np.array(Image.open(first(root, MASKS))) + np.uint8(77)).save(first(root, MASKS)),
        "mask has a label that is not a class; classes are 0 to 4 and 255 (1): ",
    ),
    "segments are missing": (replaced(SEGMENTS, lambda path: None), "panoptic segments: image file cannot be read (1)"),
    "segments are a pipe": (replaced(SEGMENTS, os.mkfifo), "(it is a pipe, not a file)"),
    "segments are small": (replaced(SEGMENTS, label_77), "panoptic segments: another size than their image (1): "),
    "the file is missing": (
        lambda root: (root / "annotations" / f"{SEGMENTS}.json").unlink(),
        f"{SEGMENTS}.json (No such file or directory)",
    ),
    "the file is of another kind": (edited(lambda c: c.pop("annotations")), "(annotations: Field required)"),
    "an id in words": (
        edited(lambda c: c["annotations"][0]["segments_info"][0].update(id="x")),
        "segments_info.0.id: ",
    ),
    "an image without segments": (edited(lambda c: c["annotations"].pop(0)), "image without panoptic segments (1): "),
    "a category of none": (
        edited(lambda c: c["annotations"][0]["segments_info"][0].update(category_id=99)),
        "category of a panoptic segment is not among the categories (1): 99 in ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str, panoptic: CfgNode, root: Path) -> None:
    spoil, message = BAD[case]
    spoil(root)
    with pytest.raises(DatasetError) as error:
        check_datasets(panoptic)
    assert message in str(error.value)


def test_what_is_right_passes(panoptic: CfgNode) -> None:
    check_datasets(panoptic)
    assert (
        "fpt_shapes_panoptic_rare" in DatasetCatalog and MetadataCatalog.get("fpt_shapes_panoptic_rare").panoptic_json
    )
