import copy
import json
import logging
import re
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import SizeMismatchError, check_image_size, read_image
from PIL import Image

from fpt_d2.data import DatasetError, check_datasets, check_names, register_from_config
from fpt_d2.data.checks.coco import CocoCheck
from fpt_d2.data.labels import UNREADABLE

RLE = {"size": [80, 100], "counts": [8000]}
GOOD = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 80, "width": 100},
        {"id": 2, "file_name": "sub/b.jpg", "height": 80, "width": 100},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10]]},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [9.5, 0, 91, 80.4], "segmentation": RLE},
    ],
}
GOOD["annotations"][0] |= {"area": 50, "iscrowd": 0}
GOOD["annotations"][1] |= {"area": 8000, "iscrowd": 1}


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for image in GOOD["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
    return tmp_path / "images"


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(GOOD)


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


def errors(content, image_root, is_train=True, mask_format="polygon") -> list[str]:
    return CocoCheck(content, str(image_root), is_train=is_train, mask_format=mask_format).errors.lines()


def test_good_data_pass(registered, shapes_root):
    cfg, _ = registered
    check_datasets(cfg)
    for split in ("train", "val"):
        content = json.loads((shapes_root / "annotations" / f"instances_{split}.json").read_text())
        check = CocoCheck(content, str(shapes_root / split), is_train=True, mask_format="bitmask")
        assert check.errors.lines() == [] and check.warnings.lines() == []


def box(value):
    return lambda c: c["annotations"][0].update(bbox=value)


def segmentation(value):
    return lambda c: c["annotations"][0].update(segmentation=value)


PLANTED = [
    (lambda c: c.pop("images"), "top-level key missing or empty (1): images"),
    (lambda c: c.update(categories=[]), "top-level key missing or empty (1): categories"),
    (lambda c: c.pop("annotations"), "top-level key missing or empty (1): annotations"),
    (lambda c: c.update(annotations={"1": 2}), "top-level key is not a list (1): annotations"),
    (lambda c: c["images"][0].pop("height"), "record without one of id, file_name, height, width (1): images[0]"),
    (lambda c: c["images"].append("x.jpg"), "record without one of id, file_name, height, width (1): images[2]"),
    (lambda c: c["images"][0].update(width=0), "image height or width is not a positive number (1): image 1"),
    (lambda c: c["images"][0].update(file_name="no.jpg"), "image file does not exist (1): no.jpg"),
    (lambda c: c["images"][0].update(file_name="no/a.jpg"), "image file does not exist (1): no/a.jpg"),
    (lambda c: c["images"][1].update(id=1), "id is not unique (1): images 1"),
    (lambda c: c["annotations"][1].update(id=1), "id is not unique (1): annotations 1"),
    (lambda c: c["categories"][1].update(id=3), "id is not unique (1): categories 3"),
    (lambda c: c["annotations"][1].update(id=[1]), "id is neither a number nor a string (1): annotations[1]"),
    (lambda c: c["annotations"][0].update(category_id=1), "category id is not among the categories (1): annotation 1"),
    (lambda c: c["annotations"][0].update(image_id=9), "image id is not among the images (1): annotation 1 (9)"),
    (lambda c: c["annotations"][0].update(ignore=1), '"ignore" is not supported by Detectron2 (1): annotation 1'),
    (lambda c: c["annotations"][0].pop("segmentation"), "no segmentation, which MODEL.MASK_ON needs (1): annotation 1"),
    (box([50, 40, 90, 75]), "box reaches outside its image"),
    (box([-3, 0, 10, 10]), "box reaches outside its image"),
    (box([200, 0, 10, 10]), "box reaches outside its image"),
    (box([50, 40, -10, 10]), "box with a negative size (1): annotation 1 [50, 40, -10, 10]"),
    (box([50, 40, 10]), "box is not four numbers (1): annotation 1"),
    (box([50, 40, 10, float("nan")]), "box is not four numbers (1): annotation 1"),
    (box(None), "box is not four numbers (1): annotation 1"),
    (segmentation([]), "no segmentation, which MODEL.MASK_ON needs (1): annotation 1"),
    (segmentation([[]]), "polygon is empty or has fewer than 3 points (1): annotation 1"),
    (segmentation([[1, 1, 2, 2]]), "polygon is empty or has fewer than 3 points (1): annotation 1"),
    (segmentation([[1, 1, 2, 2, 3, 3, 4]]), "polygon with an odd number of coordinates (1): annotation 1"),
    (segmentation([1, 1, 2, 2, 3, 3]), "segmentation is not a list of polygons"),
    (segmentation("mask.png"), "segmentation is neither polygons nor RLE (1): annotation 1"),
    (segmentation(RLE), "RLE needs INPUT.MASK_FORMAT bitmask, which is polygon (1): annotation 1"),
    (segmentation({"size": [100, 80], "counts": "abc"}), "RLE does not fit the size of its image (1): annotation 1"),
    (segmentation({"size": [80, 100], "counts": [80]}), "RLE does not fit the size of its image (1): annotation 1"),
    (segmentation({"counts": "abc"}), "RLE does not fit the size of its image (1): annotation 1"),
]


@pytest.mark.parametrize("plant, line", PLANTED, ids=[line for _, line in PLANTED])
def test_each_planted_problem_is_found(content, image_root, plant, line):
    plant(content)
    assert any(found.startswith(line) for found in errors(content, image_root))


@pytest.mark.parametrize("content", [[], None, 3, {}, ["x"] * 100])
def test_another_kind_of_json_is_an_error(content, image_root):
    assert errors(content, image_root)


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
    assert "box of no area (1): annotation 918" in caplog.text
    assert "polygon of fewer than 3 points beside others (1): annotation 919" in caplog.text


def test_masks_are_checked_only_where_they_are_trained(content, image_root):
    content["annotations"][0]["segmentation"] = []
    assert errors(content, image_root, mask_format=None) == []
    content["annotations"][0]["segmentation"] = RLE
    assert errors(content, image_root, mask_format="bitmask") == []


def test_a_test_set_may_come_without_annotations(content, image_root):
    del content["annotations"]
    assert errors(content, image_root, is_train=False) == []


@pytest.mark.parametrize(
    "field, remedy",
    [
        ("area", "pixels of the object"),
        ("iscrowd", "add 0"),
        ("segmentation", "polygons"),
        ("num_keypoints", "labelled"),
    ],
)
def test_an_evaluation_needs_more_than_a_training(registered, field, remedy):
    """What pycocotools would miss at the end of a training."""
    cfg, json_file = registered
    content = copy.deepcopy(GOOD)
    content["annotations"][0].pop(field, None)
    json_file.write_text(json.dumps(content))
    if field == "num_keypoints":
        cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, cfg.TEST.KEYPOINT_OKS_SIGMAS = True, 1, [0.1]
        MetadataCatalog.get("checked").set(keypoint_names=["tip"], keypoint_flip_map=[])
    with pytest.raises(DatasetError, match=rf"no {field}, which the evaluation needs: .*{remedy}.*: annotation 1"):
        check_datasets(cfg)
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = False
    cfg.DATASETS.TEST = () if field in ("area", "iscrowd") else cfg.DATASETS.TEST
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
        with pytest.raises(DatasetError, match="'checked' cannot be read: .*instances.json is not readable") as caught:
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
