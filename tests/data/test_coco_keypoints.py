"""Keypoints that a set has in its own file: names, what a flip exchanges, and how a drawing connects them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_PERSON_KEYPOINT_FLIP_MAP, COCO_PERSON_KEYPOINT_NAMES

from fpt_d2.data import DatasetError, build_train_mapper, check_datasets, register_from_config
from fpt_d2.data.coco import set_keypoints
from fpt_d2.data.coco.keypoints import flip_pairs
from tests.data.coco_files import GOOD

NAMES = ["left eye", "right eye", "nose"]


@pytest.fixture
def keypoints(cfg: CfgNode, tmp_path: Path, image_root: Path, catalogs: None) -> Iterator[tuple[CfgNode, Any]]:
    """A config of a set whose categories have keypoints, and a function that registers it after a change."""
    content = copy.deepcopy(GOOD)
    for category in content["categories"]:
        category |= {"keypoints": NAMES, "skeleton": [[1, 3], [2, 3]]}
    for annotation in content["annotations"]:
        annotation |= {"keypoints": [1, 2, 2, 3, 4, 1, 0, 0, 0], "iscrowd": 0}
    json_file = tmp_path / "instances.json"
    cfg.DATASETS.REGISTER_COCO = (("pointed", str(json_file), str(image_root)),)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("pointed",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = 2, False, True
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS = 3, [0.1] * 3

    def register(change: Any = lambda content: None) -> None:
        change(content)
        json_file.write_text(json.dumps(content))
        register_from_config(cfg)

    yield cfg, register


def test_they_need_no_script(keypoints: tuple[CfgNode, Any]) -> None:
    cfg, register = keypoints
    register()
    check_datasets(cfg)
    metadata = MetadataCatalog.get("pointed")
    assert metadata.keypoint_names == NAMES and metadata.keypoint_flip_map == [("left eye", "right eye")]
    assert [rule[:2] for rule in metadata.keypoint_connection_rules] == [("left eye", "nose"), ("right eye", "nose")]
    records = DatasetCatalog.get("pointed")
    assert records[0]["annotations"][0]["keypoints"] == [1.5, 2.5, 2, 3.5, 4.5, 1, 0.5, 0.5, 0]


def test_a_process_without_a_check_of_its_own_flips_them_too(keypoints: tuple[CfgNode, Any]) -> None:
    cfg, register = keypoints
    register()
    mapper = build_train_mapper(cfg)
    assert isinstance(mapper, DatasetMapper) and list(mapper.keypoint_hflip_indices) == [1, 0, 2]


def test_registered_ones_are_kept(keypoints: tuple[CfgNode, Any]) -> None:
    cfg, register = keypoints
    MetadataCatalog.get("pointed").set(keypoint_names=["a", "b", "c"], keypoint_flip_map=[])
    register()
    set_keypoints("pointed")
    assert MetadataCatalog.get("pointed").keypoint_names == ["a", "b", "c"]


def spoiled(key: str, value: Any, number: int = 0) -> Any:
    return lambda content: content["categories"][number].update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoiled("keypoints", ["a", "b", "c"], 1), "categories have different keypoints"),
        (spoiled("keypoints", "abc"), "keypoints of a category are not a list of names"),
        (lambda c: [x.update(keypoints=["a", "a", "b"]) for x in c["categories"]], "keypoint name is not unique"),
        (lambda c: [x.pop("keypoints") for x in c["categories"]], "names no keypoints, which MODEL.KEYPOINT_ON needs"),
        (lambda c: [x.pop("keypoints") for x in c["annotations"]], r"no keypoints, .* needs \(2\)"),
        (lambda c: [x.update(keypoints=[0] * 9) for x in c["annotations"]], "no keypoint has a visibility of 1 or 2"),
        (lambda c: c["annotations"][0].update(keypoints=[1, 2, 2]), "keypoints are not x, y and .* of each of the 3"),
    ],
)
def test_what_is_wrong_with_them(change: Any, message: str, keypoints: tuple[CfgNode, Any]) -> None:
    cfg, register = keypoints
    register(change)
    with pytest.raises(DatasetError, match=message):
        check_datasets(cfg)


def test_an_odd_skeleton_is_left_out(keypoints: tuple[CfgNode, Any]) -> None:
    cfg, register = keypoints
    register(lambda c: [category.update(skeleton=[[0, 9]]) for category in c["categories"]])
    check_datasets(cfg)
    assert not MetadataCatalog.get("pointed").get("keypoint_connection_rules")


def test_left_and_right_are_known_by_their_names() -> None:
    assert flip_pairs(COCO_PERSON_KEYPOINT_NAMES) == list(COCO_PERSON_KEYPOINT_FLIP_MAP)
    assert flip_pairs(["r_eye", "l_eye", "Left Ear", "Right Ear", "tail", "LEFTPAW", "RIGHTPAW"]) == [
        ("r_eye", "l_eye"),
        ("Left Ear", "Right Ear"),
        ("LEFTPAW", "RIGHTPAW"),
    ]
    assert flip_pairs(["bright", "lamp", "left"]) == []
