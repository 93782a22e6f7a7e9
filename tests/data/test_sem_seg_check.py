"""What is wrong with a data set for semantic segmentation is said before training starts."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpt_d2.data import DatasetError, check_datasets, register_from_config
from tests.semantic import CLASSES, IGNORE, write_semantic

NAME = "checked_masks"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def cfg(cfg, root: Path):
    """A config that trains on a sound data set of 4 images under ``root``."""
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = len(CLASSES)
    cfg.DATASETS.REGISTER_SEM_SEG = ((NAME, *write_semantic(root)),)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    register_from_config(cfg)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def relabel(path: Path, label: int) -> None:
    labels = np.array(Image.open(path))
    labels[7, 8] = label
    Image.fromarray(labels).save(path)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(root: Path) -> None:
    (root / "images/0.png").symlink_to(root / "masks/0.png")


def binary(root: Path, label: int) -> None:
    """Leave of the masks one label, or, called a second time, half of the pixels for another."""
    for path in (root / "masks").iterdir():
        labels = np.array(Image.open(path))
        is_one = len(np.unique(labels)) == 1
        labels[: len(labels) // 2 if is_one else None] = label
        Image.fromarray(labels).save(path)


def darken(root: Path) -> None:
    for path in (root / "images").iterdir():
        Image.fromarray(np.array(Image.open(path).convert("L")).astype(np.uint16)).save(path)


def test_one_dark_image_is_said(cfg, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.array(Image.open(root / "images/0.png").convert("L")).astype(np.uint16)).save(
        root / "images/0.png"
    )
    (root / "images/3.png").unlink()
    check_datasets(cfg)
    assert "image of 16 bits that is read as black" in caplog.text
    assert "Left out: 1 masks without an image" in caplog.text and "'3.png'" in caplog.text


def test_a_sound_data_set_passes(cfg) -> None:
    check_datasets(cfg)


PLANTED = [
    (lambda root: Image.new("L", (30, 20)).save(root / "masks/1.png"), "mask has another size than its image (1)"),
    (lambda root: Image.new("L", (30, 20)).save(root / "masks/1.png"), "1.png is 37x37, not 30x20"),
    (lambda root: relabel(root / "masks/2.png", 3), "a label that is not a class; classes are 0 to 2 and 255 (1)"),
    (lambda root: relabel(root / "masks/2.png", 254), "2.png has 254"),
    (lambda root: (root / "masks/3.png").unlink(), "mask file does not exist (1)"),
    (lambda root: Image.new("RGB", (30, 20)).save(root / "masks/0.png"), "mask is not a label image (1)"),
    (lambda root: (root / "images/0.png").write_text("no image"), "image file cannot be read (1)"),
    (lambda root: os.truncate(root / "images/0.png", 100), "image file cannot be read (1)"),
    (lambda root: (root / "masks").rename(root / "gone"), "the folder"),
    (lambda root: pipe(root / "masks/1.png"), "1.png cannot be read (it is a pipe, not a file)"),
    (lambda root: pipe(root / "images/1.png"), "1.png (it is a pipe, not a file)"),
    (lambda root: shutil.copy(root / "images/1.png", root / "images/1.bmp"), "mask of two images (1): "),
    (
        lambda root: [binary(root, 0), binary(root, IGNORE)],
        "(1): of the 3 classes only 'ground', 0;",
    ),
    (lambda root: [root.joinpath("images/0.png").unlink(), link(root)], "image and mask are one file (1): "),
    (lambda root: binary(root, IGNORE), "of the 3 classes none; 255 marks pixels that have no class"),
    (darken, "image of 16 bits that is read as black"),
    (lambda root: [path.unlink() for path in (root / "images").iterdir()], "has no images"),
]


@pytest.mark.parametrize(("plant", "message"), PLANTED)
def test_each_planted_problem_is_one_sentence(plant, message: str, cfg, root: Path) -> None:
    plant(root)
    with pytest.raises(DatasetError) as caught:
        check_datasets(cfg)
    sentence = str(caught.value)
    assert message in sentence and repr(NAME) in sentence and "\n" not in sentence
    assert "DATASETS.REGISTER_SEM_SEG" in sentence  # how to get it right


def test_every_kind_is_told_with_its_number_and_first_files(cfg, root: Path) -> None:
    for index in range(4):
        relabel(root / f"masks/{index}.png", 77)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(root / "masks/0.png")
    with pytest.raises(DatasetError) as caught:
        check_datasets(cfg)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "(1)" in lines[0] and "(3)" in lines[1] and lines[1].count(".png has 77") == 3


def test_the_classes_must_be_as_many_as_the_heads(cfg) -> None:
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 19
    with pytest.raises(DatasetError, match="has 3 classes, but the model 19: set MODEL.SEM_SEG_HEAD.NUM_CLASSES 3"):
        check_datasets(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 3, 0
    with pytest.raises(DatasetError, match="marks .* by 255, but the model ignores 0: set .*IGNORE_VALUE 255"):
        check_datasets(cfg)


def test_a_data_set_without_masks_is_refused(cfg) -> None:
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    with pytest.raises(DatasetError, match="'coco_2017_train' has no semantic masks"):
        check_datasets(cfg)


def test_a_data_set_that_is_not_there_names_its_preparation(cfg) -> None:
    if os.path.isdir(MetadataCatalog.get("ade20k_sem_seg_val").image_root):
        pytest.skip("ADE20K is here")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 150
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ("ade20k_sem_seg_val",)
    message = "'ade20k_sem_seg_val' is not there: the folder .*validation does not exist; .*prepare_sem_seg.py ade20k"
    with pytest.raises(DatasetError, match=message):
        check_datasets(cfg)


def test_a_turned_photograph_has_the_size_in_which_it_is_read(cfg, root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 40)).save(root / "images/0.png", exif=exif)
    Image.fromarray(np.full((64, 40), IGNORE, np.uint8)).save(root / "masks/0.png")
    check_datasets(cfg)


def test_files_are_not_read_where_the_check_is_off(cfg, root: Path) -> None:
    (root / "masks/0.png").unlink()
    cfg.DATASETS.CHECK = False
    check_datasets(cfg)
