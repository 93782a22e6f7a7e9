"""Data sets as they are downloaded become what is registered; what is missing is named, what is there is kept."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_d2.data import DatasetError
from fpt_d2.data.datasets.prepare import prepare_ade20k, prepare_cityscapes, prepare_lip, prepare_voc
from fpt_d2.data.labels import label_colors

ROOT = Path(__file__).parents[2]
PALETTE = [channel for color in label_colors(256) for channel in color]


def save(path: Path, labels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette(PALETTE)
    image.save(path)


def load(path: Path) -> np.ndarray:
    image = Image.open(path)
    assert image.mode == "L"
    return np.array(image)


def random_labels(*labels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(labels, dtype=np.uint8), size=(6, 8))


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        base = tmp_path / "gtFine" / split / "ulm" / "ulm_000000_000019"
        image = tmp_path / "leftImg8bit" / split / "ulm" / "ulm_000000_000019_leftImg8bit.png"
        save(image, np.zeros((6, 8, 3), np.uint8))
        save(Path(f"{base}_gtFine_labelIds.png"), np.arange(48, dtype=np.uint8).reshape(6, 8) % 34)
        Path(f"{base}_gtFine_polygons.json").write_text("{}")
    return tmp_path


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Five images: a, b (train), c (val) with masks of VOC's; d, e without."""
    root = tmp_path / "VOC2012"
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    for seed, name in enumerate("abcde"):
        save(root / "JPEGImages" / f"{name}.jpg", np.zeros((6, 8, 3), np.uint8))
        if name in "abc":
            save(root / "SegmentationClass" / f"{name}.png", random_labels(0, 5, 20, 255, seed=seed), palette=True)
    return root


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    """Masks of b, c, d and e, the first two of which VOC has too."""
    io = pytest.importorskip("scipy.io")
    root = tmp_path / "benchmark_RELEASE" / "dataset"
    (root / "cls").mkdir(parents=True)
    (root / "train.txt").write_text("b\nd\n")
    (root / "val.txt").write_text("c\ne\n")
    for name in "bcde":
        truth = {"Boundaries": np.zeros((20, 1)), "Segmentation": np.full((6, 8), 7, np.uint8)}
        io.savemat(root / "cls" / f"{name}.mat", {"GTcls": truth | {"CategoriesPresent": 7}})
    return root


def test_cityscapes_train_ids(cityscapes: Path) -> None:
    prepare_cityscapes(cityscapes)
    source = np.arange(48).reshape(6, 8) % 34
    # The table of the data set's own scripts.
    table = dict(zip([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], range(19)))
    for split in ("train", "val"):
        written = load(cityscapes / "gtFine" / split / "ulm" / "ulm_000000_000019_gtFine_labelTrainIds.png")
        assert written.tolist() == [[table.get(label, 255) for label in row] for row in source.tolist()]


def test_ade20k_labels_are_shifted(tmp_path: Path) -> None:
    for split in ("training", "validation"):
        save(tmp_path / "images" / split / "x.jpg", np.zeros((2, 3, 3), np.uint8))
        save(tmp_path / "annotations" / split / "x.png", np.array([[0, 1, 2], [150, 149, 0]], np.uint8))
    prepare_ade20k(tmp_path)
    written = load(tmp_path / "annotations_detectron2" / "validation" / "x.png")
    assert written.tolist() == [[255, 0, 1], [149, 148, 255]]


def test_voc_alone_gives_train_and_val(voc: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="fpt_d2"):
        prepare_voc(voc)
    assert sorted(p.name for p in (voc / "SegmentationClassAug").iterdir()) == ["a.png", "b.png", "c.png"]
    for seed, name in enumerate("abc"):
        assert (load(voc / "SegmentationClassAug" / f"{name}.png") == random_labels(0, 5, 20, 255, seed=seed)).all()
    assert not (voc / "ImageSets" / "Segmentation" / "trainaug.txt").exists()
    assert "voc_2012_sem_seg_trainaug is not prepared" in caplog.text and "2 of 1464 images" in caplog.text


def test_voc_with_sbd_gives_trainaug(voc: Path, sbd: Path) -> None:
    prepare_voc(voc, sbd)
    assert (voc / "ImageSets" / "Segmentation" / "trainaug.txt").read_text() == "a\nb\nd\ne\n"
    for name in "de":
        assert (load(voc / "SegmentationClassAug" / f"{name}.png") == 7).all()
    assert not (load(voc / "SegmentationClassAug" / "b.png") == 7).any()  # VOC's own
    prepare_voc(voc)  # with the masks there, as they are when downloaded
    assert (voc / "ImageSets" / "Segmentation" / "trainaug.txt").read_text() == "a\nb\nd\ne\n"


def test_voc_masks_in_color_become_labels(voc: Path) -> None:
    labels = random_labels(0, 1, 15, 20, 255)
    path = voc / "SegmentationClass" / "a.png"
    Image.fromarray(np.array(label_colors(256), np.uint8)[labels]).save(path)
    prepare_voc(voc)
    assert (load(voc / "SegmentationClassAug" / "a.png") == labels).all()
    (voc / "SegmentationClassAug" / "a.png").unlink()
    Image.fromarray(np.full((6, 8, 3), 17, np.uint8)).save(path)
    with pytest.raises(DatasetError, match="a.png has the color #111111, which is none of Pascal VOC's"):
        prepare_voc(voc)


def test_nothing_that_is_there_is_replaced(voc: Path, sbd: Path, cityscapes: Path) -> None:
    kept = [voc / "SegmentationClassAug" / "d.png"]
    kept.append(cityscapes / "gtFine" / "val" / "ulm" / "ulm_000000_000019_gtFine_labelTrainIds.png")
    for path in kept:
        save(path, random_labels(3))
    prepare_voc(voc, sbd)
    prepare_cityscapes(cityscapes)
    assert all((load(path) == 3).all() for path in kept)
    trainaug = voc / "ImageSets" / "Segmentation" / "trainaug.txt"
    trainaug.write_text("a\n")
    with pytest.raises(DatasetError, match="trainaug.txt lists other images than there are masks: move it away"):
        prepare_voc(voc, sbd)
    assert trainaug.read_text() == "a\n"


def test_an_interruption_leaves_no_broken_mask(voc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_voc(voc)
    assert list((voc / "SegmentationClassAug").glob("*.png")) == []
    prepare_voc(voc)
    assert len(list((voc / "SegmentationClassAug").iterdir())) == 3


def test_what_is_missing_is_named(voc: Path, sbd: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Missing: .*leftImg8bit/train, .*gtFine/train. Remedy: download"):
        prepare_cityscapes(tmp_path / "none")
    (sbd / "cls" / "d.mat").unlink()
    with pytest.raises(DatasetError, match="1 files are missing: .*d.mat. Remedy: download benchmark.tgz"):
        prepare_voc(voc, sbd)
    (voc / "SegmentationClass" / "c.png").unlink()
    with pytest.raises(DatasetError, match="1 files are missing: .*c.png. Remedy: download VOCtrainval"):
        prepare_voc(voc)


@pytest.mark.parametrize("nested", [False, True])
def test_lip_is_found_where_it_was_unpacked(nested: bool, tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind, folder, suffix in (
            ("TrainVal_images", f"{split}_images", "jpg"),
            ("TrainVal_parsing_annotations", f"{split}_segmentations", "png"),
        ):
            parent = tmp_path / kind / kind if nested else tmp_path / kind
            save(parent / folder / f"1_2.{suffix}", random_labels(0, 14))
    prepare_lip(tmp_path)
    assert (tmp_path / "TrainVal_images" / "val_images" / "1_2.jpg").exists()
    assert (tmp_path / "TrainVal_parsing_annotations" / "train_segmentations" / "1_2.png").exists()
    (tmp_path / "TrainVal_parsing_annotations" / "val_segmentations" / "1_2.png").unlink()
    with pytest.raises(DatasetError, match="1 files are missing: .*1_2.png"):
        prepare_lip(tmp_path)


def run(*words: str, datasets: Path) -> subprocess.CompletedProcess:
    env = {**os.environ, "DETECTRON2_DATASETS": str(datasets), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "tools" / "prepare_sem_seg.py"), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_the_command_prepares_and_checks(voc: Path, sbd: Path) -> None:
    done = run("voc", "--sbd", str(sbd), datasets=voc.parent)
    assert done.returncode == 0, done.stderr
    assert "voc_2012_sem_seg_trainaug: 4 images and their masks are in order" in done.stdout
    save(voc / "SegmentationClassAug" / "c.png", random_labels(21))
    done = run("check", "voc_2012_sem_seg_val", "lip_sem_seg_val", "coco_2017_val", datasets=voc.parent)
    assert done.returncode == 1
    assert "c.png has 21" in done.stdout and "'lip_sem_seg_val' is not there" in done.stdout
    assert "'coco_2017_val' is not a registered data set for semantic segmentation" in done.stdout
    assert "Traceback" not in done.stderr
