import copy
import json
import logging
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import SizeMismatchError, check_image_size, read_image
from PIL import Image

from fpt_d2.data import DatasetError, check_datasets, check_names, register_from_config
from fpt_d2.data.labels import UNREADABLE
from tests.data.coco_files import GOOD, errors


@pytest.fixture
def registered(cfg, tmp_path, image_root):
    """A config whose train and test set is `GOOD`, and the file."""
    json_file = tmp_path / "instances.json"
    json_file.write_text(json.dumps(GOOD))
    cfg.DATASETS.REGISTER_COCO = (("checked", str(json_file), str(image_root)),)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("checked",)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.INPUT.MASK_FORMAT = "polygon"
    register_from_config(cfg)
    yield cfg, json_file
    DatasetCatalog.remove("checked")
    MetadataCatalog.remove("checked")


def test_good_data_pass(registered):
    cfg, _ = registered
    check_datasets(cfg)


def turned(path, size, **options):
    """An image of another size whose EXIF data turn it by 90 degrees."""
    image = Image.new("RGB", size)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif, **options)


def cut(path, number):
    path.write_bytes(path.read_bytes()[:-number])


BAD_FILES = [
    (lambda path: Image.new("RGB", (90, 80)).save(path), "image has another size than .*: a.jpg is 90x80, not 100x80"),
    (
        lambda path: turned(path, (100, 80)),
        "image has another size than .*: a.jpg is 80x100 .turned as its EXIF data say., not 100x80",
    ),
    (lambda path: path.write_bytes(b""), "image file cannot be read .1.: a.jpg"),
    (lambda path: cut(path, 20), "image file cannot be read .1.: a.jpg .*truncated"),
    (lambda path: cut(path, 2), "image file cannot be read .1.: a.jpg .*truncated"),
    (lambda path: (Image.new("RGB", (100, 80)).save(path, "png"), cut(path, 50)), "image file cannot be read .1.: a"),
]


@pytest.mark.parametrize("spoil, message", BAD_FILES)
def test_an_image_that_ends_a_training_is_named(spoil, message, content, image_root):
    spoil(image_root / "a.jpg")
    (line,) = errors(content, image_root)
    assert re.match(message, line)
    with pytest.raises((*UNREADABLE, SizeMismatchError)):
        check_image_size(content["images"][0] | {"file_name": "a.jpg"}, read_image(str(image_root / "a.jpg"), "BGR"))


GOOD_FILES = [
    lambda path: turned(path, (80, 100)),
    lambda path: turned(path, (80, 100), format="png"),
    lambda path: path.write_bytes(path.read_bytes() + b"and more"),
]


@pytest.mark.parametrize("change", GOOD_FILES)
def test_an_image_that_detectron2_reads_is_fine(change, content, image_root):
    change(image_root / "a.jpg")
    check_image_size(content["images"][0] | {"file_name": "a.jpg"}, read_image(str(image_root / "a.jpg"), "BGR"))
    assert errors(content, image_root) == []


def test_of_very_many_images_some_are_opened(content, image_root, monkeypatch):
    monkeypatch.setattr("fpt_d2.data.checks.coco._MAX_OPENED", 2)
    (image_root / "a.jpg").write_bytes(b"")
    extra = [{"id": 3 + i, "file_name": f"{i}.jpg", "height": 80, "width": 100} for i in range(3)]
    for image in extra:
        (image_root / image["file_name"]).write_bytes(b"")
    content["images"] += extra
    (line,) = errors(content, image_root)
    assert "cannot be read (2): a.jpg" in line and "1.jpg" in line


def test_all_problems_come_at_once_and_bounded(registered, image_root):
    cfg, json_file = registered
    content = copy.deepcopy(GOOD)
    (image_root / "a.jpg").unlink()
    bad = [
        {"bbox": [0, 0, 900, 10]},
        {"category_id": 5},
        {"image_id": 77},
        {"segmentation": [[]]},
        {"id": 1},
    ]
    for number, change in enumerate(bad * 20):
        content["annotations"].append(GOOD["annotations"][0] | {"id": 100 + number} | change)
    json_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as caught:
        check_datasets(cfg)
    message = str(caught.value)
    assert "has 101 problems" in message and str(json_file) in message
    assert "image file does not exist (1): a.jpg\n" in message
    for kind in (
        "box reaches outside",
        "category id is not",
        "image id is not",
        "polygon is empty",
        "id is not unique",
    ):
        (line,) = (line for line in message.splitlines() if line.strip().startswith(kind))
        assert "(20): " in line and line.endswith(", ...") and line.count("annotation") == 3
    assert len(message.splitlines()) == 8


def test_what_coco_has_passes_with_a_warning(registered, caplog):
    cfg, json_file = registered
    content = copy.deepcopy(GOOD)
    # Annotation 918 of COCO's instances_train2017.json is of this kind.
    flat = {"bbox": [9.6, 8.3, 1.03, 0.0], "segmentation": [[9.6, 8.3, 9.6, 8.3, 10.7, 8.3, 10.7, 8.3]]}
    content["annotations"].append(GOOD["annotations"][0] | flat | {"id": 918})
    short = {"segmentation": [[0, 0, 10, 0, 10, 10], [1, 1, 2, 2]]}
    content["annotations"].append(GOOD["annotations"][0] | short | {"id": 919})
    json_file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING, logger="fpt_d2"):
        check_datasets(cfg)
    assert "box of no area, which trainings leave out (1): annotation 918" in caplog.text
    assert "polygon of fewer than 3 points beside others (1): annotation 919" in caplog.text


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ("area", "pixels of the object"),
        ("segmentation", "polygons"),
    ],
)
def test_an_evaluation_needs_more_than_a_training(registered, field, remedy):
    """What pycocotools would miss at the end of a training."""
    cfg, json_file = registered
    content = copy.deepcopy(GOOD)
    content["annotations"][0].pop(field, None)
    json_file.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=rf"no {field}, which the evaluation needs: .*{remedy}.*: annotation 1"):
        check_datasets(cfg)
    cfg.MODEL.MASK_ON = False
    cfg.DATASETS.TEST = () if field == "area" else cfg.DATASETS.TEST
    check_datasets(cfg)  # a training, and an evaluation of boxes, do without it


def test_a_missing_image_folder_is_one_problem(content, tmp_path):
    assert errors(content, tmp_path / "none") == [f"image folder does not exist (1): {tmp_path / 'none'}"]


def test_names_must_be_registered(cfg):
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_trian",), ("qqqq",)
    with pytest.raises(DatasetError) as caught:
        check_datasets(cfg)
    assert "'coco_2017_trian' is not registered. Did you mean coco_2017_train" in str(caught.value)
    assert "'qqqq' is not registered. DATASETS.REGISTER_COCO" in str(caught.value)
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(DatasetError, match="DATASETS.REGISTER_SEM_SEG registers your own images and masks"):
        check_datasets(cfg)


@pytest.mark.parametrize(
    "architecture, key",
    [("GeneralizedRCNN", "ROI_HEADS"), ("PanopticFPN", "ROI_HEADS"), ("RetinaNet", "RETINANET")],
)
def test_the_number_of_classes_must_be_that_of_the_data(registered, architecture, key):
    cfg, _ = registered
    cfg.MODEL.META_ARCHITECTURE = architecture
    MetadataCatalog.get("checked").stuff_classes = ["things", "sky"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    check = f"'checked' has 2 categories, but the model 5: set MODEL.{key}.NUM_CLASSES 2"
    cfg.MODEL[key].NUM_CLASSES = 5
    with pytest.raises(DatasetError, match=check):
        check_datasets(cfg)
    cfg.MODEL[key].NUM_CLASSES = 2
    check_datasets(cfg)


def test_the_files_are_not_read_where_the_check_is_off(registered):
    cfg, json_file = registered
    json_file.unlink()
    cfg.DATASETS.CHECK = False
    check_datasets(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ()
    with pytest.raises(DatasetError, match="'coco_2017_train' has 80 categories, but the model 2"):
        check_datasets(cfg)


def test_unreadable_files_are_named(registered):
    cfg, json_file = registered
    for bad in (b'{"images": [', b"\xff\xd8\xff\xe0"):
        json_file.write_bytes(bad)
        with pytest.raises(
            DatasetError, match="'checked' cannot be read: .*instances.json is not (valid|text)"
        ) as caught:
            check_datasets(cfg)
        assert str(caught.value).endswith("; correct DATASETS.REGISTER_COCO")
    json_file.unlink()
    with pytest.raises(DatasetError, match="'checked' cannot be read: .*instances.json does not exist"):
        check_datasets(cfg)


@pytest.fixture
def second(registered, tmp_path, image_root):
    """A function that makes a second data set, with these categories, the test set."""
    cfg, _ = registered

    def make(*categories: tuple[int, str]) -> None:
        json_file = tmp_path / "second.json"
        json_file.write_text(json.dumps(GOOD | {"categories": [{"id": i, "name": n} for i, n in categories]}))
        cfg.DATASETS.REGISTER_COCO = (("second", str(json_file), str(image_root)),)
        cfg.DATASETS.TEST = ("second",)
        register_from_config(cfg)

    yield make
    DatasetCatalog.remove("second")
    MetadataCatalog.remove("second")


def test_the_categories_of_all_data_sets_must_be_the_same(registered, second):
    cfg, _ = registered
    second((3, "dog"), (7, "cat"))
    with pytest.raises(DatasetError, match="'checked' and 'second' have other classes: number 0.* 'cat' .* 'dog' "):
        check_datasets(cfg)
    cfg.DATASETS.CHECK = False
    MetadataCatalog.get("checked").thing_classes = ["cat", "dog"]
    MetadataCatalog.get("second").thing_classes = ["dog", "cat"]
    check_datasets(cfg)


def test_categories_may_be_listed_in_any_order(registered, second):
    cfg, _ = registered
    second((7, "dog"), (3, "cat"))
    check_datasets(cfg)


def test_the_stuff_of_all_data_sets_must_be_the_same(cfg):
    cfg.MODEL.META_ARCHITECTURE, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = "PanopticFPN", ("one",), ("two",)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 2
    try:
        for name, stuff in (("one", ["sea", "sky"]), ("two", ["sea", "lawn"])):
            DatasetCatalog.register(name, list)
            MetadataCatalog.get(name).stuff_classes = stuff
        with pytest.raises(DatasetError, match="'one' and 'two' have other classes: number 1, .* 'sky' .* 'lawn' "):
            check_datasets(cfg)
    finally:
        for name in ("one", "two"):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_evaluation_does_not_need_the_training_set(registered):
    cfg, _ = registered
    cfg.DATASETS.TRAIN = ("not_registered",)
    check_datasets(cfg, eval_only=True)


def test_categories_must_be_the_registered_ones(registered):
    cfg, _ = registered
    MetadataCatalog.get("checked").thing_classes = ["cow", "dog"]
    with pytest.raises(DatasetError, match="categories are not the registered ones"):
        check_datasets(cfg)


def test_keypoints_must_be_those_of_the_data(cfg):
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CHECK = True, 1, False
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("fpt_shapes_keypoints_val",)
    with pytest.raises(DatasetError) as caught:
        check_datasets(cfg)
    keypoints, sigmas = str(caught.value).splitlines()
    assert "has 5 keypoints, but the model 17: set MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 5" in keypoints
    assert "set TEST.KEYPOINT_OKS_SIGMAS to as many numbers" in sigmas
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS = 5, [0.05] * 5
    check_datasets(cfg)
    cfg.DATASETS.TRAIN, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("fpt_shapes_val",), 6
    with pytest.raises(DatasetError, match="'fpt_shapes_val' names no keypoints.*keypoint_flip_map"):
        check_datasets(cfg)


def test_coco_needs_no_sigmas(cfg):
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.CHECK = True, 1, False
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("keypoints_coco_2017_train",), ("keypoints_coco_2017_val",)
    check_datasets(cfg)


def test_stuff_must_be_that_of_the_data(cfg):
    cfg.MODEL.META_ARCHITECTURE, cfg.DATASETS.CHECK, cfg.DATASETS.TRAIN = "PanopticFPN", False, ()
    cfg.DATASETS.TEST = ("fpt_shapes_panoptic_val",)
    with pytest.raises(DatasetError, match="has 5 stuff classes, but the model 54: .*SEM_SEG_HEAD.NUM_CLASSES 5"):
        check_datasets(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    check_datasets(cfg)
    cfg.DATASETS.TEST = ("fpt_shapes_val",)
    with pytest.raises(DatasetError, match="'fpt_shapes_val' has no stuff_classes"):
        check_datasets(cfg)


@pytest.mark.parametrize("split", ["train", "val", "minival", "valminusminival"])
def test_the_splits_of_coco_2014_are_known(split, cfg):
    """By the names that Detectron2 registers; without the data, one sentence about each file."""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 80
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (f"coco_2014_{split}",)
    for check in (lambda: check_datasets(cfg), lambda: check_names(cfg.DATASETS.TRAIN)):
        with pytest.raises(DatasetError) as caught:
            check()
        (sentence,) = str(caught.value).splitlines()
        assert f"'coco_2014_{split}' cannot be read" in sentence and f"instances_{split}2014.json" in sentence
        assert sentence.endswith("belong under $DETECTRON2_DATASETS")
    cfg.DATASETS.CHECK = False
    check_datasets(cfg)


def test_a_set_of_whole_paths_without_a_folder_is_checked(registered, image_root, tmp_path, catalogs):
    cfg, _ = registered
    content = copy.deepcopy(GOOD)
    for image in content["images"]:
        image["file_name"] = str(image_root / image["file_name"])
    (tmp_path / "whole.json").write_text(json.dumps(content))
    register_coco_instances("whole", {}, str(tmp_path / "whole.json"), "")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.MODEL.ROI_HEADS.NUM_CLASSES = ("whole",), (), 3
    with pytest.raises(DatasetError, match="2 categories") as error:
        check_datasets(cfg)
    assert "does not exist" not in str(error.value)
