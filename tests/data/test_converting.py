"""From VOC, YOLO and LabelMe to COCO: nothing is lost on the way there and back, and what is wrong is named."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from fpt_d2.commands.prepare import main as fpt_prepare
from fpt_d2.config_file import read_config
from fpt_d2.data.checks.coco import check_image_files
from fpt_d2.data.coco import read_coco
from fpt_d2.data.photographs.labelme import prepare_labelme
from fpt_d2.data.photographs.voc import prepare_voc
from fpt_d2.data.photographs.yolo import prepare_yolo
from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.errors import DatasetError, UserError
from tests.data.label_formats import (
    Record,
    images_of,
    is_one_polygon,
    labelme_mask,
    write_labelme,
    write_voc,
    write_yolo,
)

PREPARE = {"voc": prepare_voc, "yolo": prepare_yolo, "labelme": prepare_labelme}
CLASSES = list(CATEGORIES)
WRITERS = {
    "voc": write_voc,
    "yolo": partial(write_yolo, classes=CLASSES),
    "labelme": partial(write_labelme, embedded=False),
    "labelme embedded": partial(write_labelme, embedded=True),
}


def extent(polygons: list[list[float]]) -> list[float]:
    points = np.concatenate(polygons).reshape(-1, 2)
    return [*points.min(axis=0), *np.ptp(points, axis=0)]


def expected(annotation: Record, kind: str) -> tuple[list[float], Any]:
    """Box and segmentation of an object after the way there and back."""
    segmentation = annotation["segmentation"]
    if kind == "voc" or (kind == "yolo" and not is_one_polygon(annotation)):
        return annotation["bbox"], None
    if isinstance(segmentation, dict):
        return mask_util.toBbox(segmentation).tolist(), segmentation
    return extent(segmentation), segmentation


def compare(before: Record, after: Record, kind: str) -> None:
    """Assert that an object is the same to within the third decimal."""
    box, segmentation = expected(before, kind)
    assert np.abs(np.subtract(box, after["bbox"])).max() < 2e-3
    assert after["iscrowd"] == (before["iscrowd"] if kind == "voc" else 0)
    if isinstance(segmentation, list):
        assert len(segmentation) == len(after["segmentation"])
        assert all(np.abs(np.subtract(p, q)).max() < 2e-3 for p, q in zip(segmentation, after["segmentation"]))
        assert after["area"] == pytest.approx(before["area"], rel=0.1, abs=4)
    else:
        assert after.get("segmentation") == segmentation


@pytest.mark.parametrize("name", WRITERS)
def test_there_and_back(name: str, shapes_root: Path, tmp_path: Path) -> None:
    kind, images = name.split()[0], tmp_path / "out" / "images"
    WRITERS[name](shapes_root, tmp_path / "labels")
    counts = PREPARE[kind](tmp_path / "labels", tmp_path / "out", classes=CLASSES)
    assert {split: numbers["images"] for split, numbers in counts.items()} == {"train": 36, "val": 12}
    for split in counts:
        after = {Path(image["file_name"]).stem[-6:]: (image, a) for image, a in images_of(tmp_path / "out", split)}
        for image, before in images_of(shapes_root, split):
            record, objects = after.pop(Path(image["file_name"]).stem)
            assert (record["width"], record["height"]) == (image["width"], image["height"])
            copied, original = images / record["file_name"], shapes_root / split / image["file_name"]
            assert copied.read_bytes() == original.read_bytes()
            assert [a["category"] for a in objects] == [a["category"] for a in before]
            for pair in zip(before, objects):
                compare(*pair, kind)
        assert not after
        check = read_coco(str(tmp_path / "out" / "annotations" / f"instances_{split}.json"))
        assert not check.errors.counts and not check.warnings.counts
        assert not any(found.counts for found in check_image_files(check, str(images)))
        assert check.class_names() == CLASSES


def test_what_another_library_has_written(shapes_root: Path, tmp_path: Path) -> None:
    """supervision's exporters, of boxes in whole pixels, which each format has exactly."""
    from supervision import DetectionDataset

    annotations, images = shapes_root / "annotations" / "instances_val.json", shapes_root / "val"
    data = DetectionDataset.from_coco(str(images), str(annotations), force_masks=False)
    for detections in data.annotations.values():
        detections.mask = None
    data.as_yolo(f"{tmp_path}/yolo/images", f"{tmp_path}/yolo/labels", f"{tmp_path}/yolo/data.yaml")
    data.as_pascal_voc(f"{tmp_path}/voc/JPEGImages", f"{tmp_path}/voc/Annotations")
    data.as_labelme(f"{tmp_path}/labelme", f"{tmp_path}/labelme")
    before = {image["file_name"]: objects for image, objects in images_of(shapes_root, "val")}
    for kind, prepare in PREPARE.items():
        prepare(tmp_path / kind, tmp_path / "out" / kind, val_share=0.25)
        after = [pair for split in ("train", "val") for pair in images_of(tmp_path / "out" / kind, split)]
        assert len(after) == len(before)
        for image, objects in after:
            boxes, wanted = ([a["bbox"] for a in found] for found in (objects, before[image["file_name"]]))
            assert np.abs(np.subtract(boxes, wanted)).max() < 1e-2
            assert [a["category"] for a in objects] == [a["category"] for a in before[image["file_name"]]]


def picture(path: Path, size: tuple[int, int] = (16, 12), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, (90, 120, 40)).save(path, exif=exif)


def shape(kind: str, points: Any, label: Any = "cell", **fields: Any) -> Record:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, **fields}


def write_json(path: Path, *shapes: Any, **fields: Any) -> None:
    content = {"imagePath": f"{path.stem}.png", "imageData": None, "imageWidth": 16, "imageHeight": 12, **fields}
    path.write_text(json.dumps(content | {"shapes": shapes}))


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Four images, each with a box and a polygon; the classes are cell and dust."""
    root = tmp_path / "my labels ü"
    for name in "abcd":
        picture(root / "images" / f"{name}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0 0 0.5 0 0.5 0.5\n")
    (root / "data.yaml").write_text("names: [cell, dust]\n")
    return root


@pytest.fixture
def labelme(tmp_path: Path) -> Path:
    """Four images, each with a rectangle and a polygon."""
    root = tmp_path / "my labels ü"
    for name in "abcd":
        picture(root / f"{name}.png")
        write_json(
            root / f"{name}.json", shape("rectangle", [[10, 9], [2, 3]]), shape("polygon", [[0, 0], [8, 0], [8, 6]])
        )
    return root


def converted(kind: str, source: Path, **options: Any) -> list[tuple[Record, list[Record]]]:
    out = source.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    splits = PREPARE[kind](source, out, **options)
    return sorted((pair for split in splits for pair in images_of(out, split)), key=lambda pair: pair[0]["file_name"])


def test_yolo_boxes_and_polygons(yolo: Path) -> None:
    image, (box, polygon) = converted("yolo", yolo)[0]
    assert image["file_name"] == "a.png" and (image["width"], image["height"]) == (16, 12)
    assert (box["category"], box["bbox"], box["area"], "segmentation" in box) == ("cell", [6, 3, 4, 6], 24, False)
    assert (polygon["category"], polygon["bbox"], polygon["area"]) == ("dust", [0, 0, 8, 6], 24)
    assert polygon["segmentation"] == [[0, 0, 8, 0, 8, 6]]


YOLO_WORKS: dict[str, tuple[Callable[[Path], Any], list[int]]] = {
    "no label file": (lambda root: (root / "labels" / "a.txt").unlink(), [0, 2, 2, 2]),
    "empty label file": (lambda root: (root / "labels" / "a.txt").write_text("\n \n"), [0, 2, 2, 2]),
    "score": (lambda root: (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.25 0.5 0.93"), [1, 2, 2, 2]),
    "floats of NumPy": (lambda root: (root / "labels" / "a.txt").write_text("1.0e+00 .5 .5 .2 .5"), [1, 2, 2, 2]),
    "byte order mark": (
        lambda root: (root / "labels" / "a.txt").write_bytes(b"\xef\xbb\xbf0 .5 .5 .2 .5\r\n"),
        [1, 2, 2, 2],
    ),
    "rounding": (lambda root: (root / "labels" / "a.txt").write_text("0 0.5 0.5 1.01 1.01"), [1, 2, 2, 2]),
    "names by number": (lambda root: (root / "data.yaml").write_text("names: {1: dust, 0: cell}\nnc: 2"), [2] * 4),
    "classes.txt": (
        lambda root: [(root / "data.yaml").unlink(), (root / "labels" / "classes.txt").write_text("cell\ndust\n")],
        [2] * 4,
    ),
    "labels beside images": (
        lambda root: [file.rename(root / "images" / file.name) for file in (root / "labels").iterdir()],
        [2] * 4,
    ),
    "capital suffix": (lambda root: (root / "images" / "a.png").rename(root / "images" / "a.PNG"), [2] * 4),
    "turned by EXIF": (lambda root: picture(root / "images" / "a.png", (12, 16), orientation=6), [2] * 4),
    "other text files": (lambda root: (root / "README.dataset.txt").write_text("by me"), [2] * 4),
    "pose": (
        lambda root: [
            (root / "data.yaml").write_text("names: [cell, dust]\nkpt_shape: [2, 3]"),
            (root / "labels" / "a.txt").write_text("0 .5 .5 .2 .5 .1 .1 2 .2 .2 2"),
        ],
        [1, 2, 2, 2],
    ),
}


@pytest.mark.parametrize("case", YOLO_WORKS)
def test_yolo_that_has_one_meaning(case: str, yolo: Path) -> None:
    spoil, counts = YOLO_WORKS[case]
    spoil(yolo)
    images = converted("yolo", yolo)
    assert [len(objects) for _, objects in images] == counts
    assert all(a["category"] in ("cell", "dust") for _, objects in images for a in objects)
    assert all((image["width"], image["height"]) == (16, 12) for image, _ in images)


def move(
    root: Path, folders: dict[str, str], kinds: tuple[str, ...] = ("images", "labels"), last: bool = False
) -> None:
    """Put the files of each name into ``<kind>/<folder>``, or ``<folder>/<kind>``."""
    for kind in kinds:
        for file in [path for path in (root / kind).iterdir() if path.stem in folders]:
            parts = [folders[file.stem], kind] if last else [kind, folders[file.stem]]
            root.joinpath(*parts).mkdir(parents=True, exist_ok=True)
            file.rename(root.joinpath(*parts, file.name))


FOLDERS = {"a": "train", "b": "valid", "c": "train", "d": "test"}


@pytest.mark.parametrize("last", [False, True])
def test_yolo_splits_of_its_own(last: bool, yolo: Path) -> None:
    move(yolo, FOLDERS, last=last)
    counts = prepare_yolo(yolo, yolo.parent / "out")
    assert {split: numbers["images"] for split, numbers in counts.items()} == {"train": 2, "val": 1, "test": 1}
    names = ["test/d.png", "train/a.png", "train/c.png", "valid/b.png"]
    assert [image["file_name"] for image, _ in converted("yolo", yolo)] == names
    assert prepare_yolo(yolo, yolo.parent / "out2", val_share=0.5) == {
        split: {"images": 2, "objects": 4} for split in ("train", "val")
    }


@pytest.mark.parametrize(
    "lines",
    [
        "path: /content/elsewhere\ntrain: images/train\nval: [images/valid]",  # as it was on another machine
        "train: ../images/train\nval: ../images/valid\ntest: ../test/images",  # as Roboflow writes it
        "train: train.txt\nval: val.txt",
    ],
)
def test_yolo_splits_of_data_yaml(lines: str, yolo: Path) -> None:
    move(yolo, FOLDERS)
    (yolo / "data.yaml").write_text(f"names: [cell, dust]\n{lines}\n", encoding="utf-8")
    (yolo / "train.txt").write_text("./images/train/a.png\nimages/train/c.png\n")
    (yolo / "val.txt").write_text("./images/valid/b.png\n")
    counts = prepare_yolo(yolo, yolo.parent / "out")
    assert {split: numbers["images"] for split, numbers in counts.items()} == {"train": 2, "val": 1}


def test_the_same_name_in_two_folders(yolo: Path) -> None:
    move(yolo, {"a": "day", "b": "day"})
    for kind, suffix in (("images", "png"), ("labels", "txt")):
        shutil.copytree(yolo / kind / "day", yolo / kind / "night")
        (yolo / kind / "night" / f"a.{suffix}").rename(yolo / kind / "night" / f"c.{suffix}")
    assert [i["file_name"] for i, _ in converted("yolo", yolo)] == [
        "c.png", "d.png", "day/a.png", "day/b.png", "night/b.png", "night/c.png",
    ]  # fmt: skip


def test_what_lies_beside_the_data_set(yolo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file of that name, a data set that was prepared there, hidden files and links in a circle."""
    (yolo / "dataset.json").write_text("{}")
    prepare_yolo(yolo, yolo / "datasets" / "cells")
    (yolo / ".cache").mkdir()
    picture(yolo / ".cache" / "z.png")
    (yolo / "images" / "again").symlink_to(yolo, target_is_directory=True)
    (yolo / "labels" / "b.txt").unlink()
    assert [(i["file_name"], len(a)) for i, a in converted("yolo", yolo)] == [
        ("a.png", 2), ("b.png", 0), ("c.png", 2), ("d.png", 2),
    ]  # fmt: skip
    assert "1 images without a label file have no objects, such as " in caplog.text


def test_labelme_shapes(labelme: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((12, 16), bool)
    mask[2:7, 3:5] = True
    write_json(
        labelme / "a.json",
        shape("rectangle", [[10, 9], [2, 3]]),
        shape("circle", [[8, 6], [8, 2]], "ring"),
        shape("circle", [[0, 0], [0, 4]], "ring"),
        labelme_mask(mask) | {"label": "dust"},
        shape("polygon", [[0, 0], [4, 0], [4, 4]], group_id=3),
        shape("polygon", [[8, 8], [12, 8], [12, 12]], group_id=3),
        shape("line", [[1, 1], [3, 3]]),
        shape("point", [[1, 1]]),
        {"label": "old", "points": [[0, 0], [4, 0], [4, 4]]},  # of LabelMe's first versions
        shape("oriented_rectangle", [[4, 0], [8, 4], [4, 8], [0, 4]]),
    )
    _, (box, circle, quarter, dust, group, old, tilted) = converted("labelme", labelme)[0]
    assert box["bbox"] == [2, 3, 8, 6] and "segmentation" not in box
    assert circle["bbox"] == [4, 2, 8, 8] and circle["area"] == pytest.approx(16 * np.pi, rel=0.002)
    assert quarter["bbox"] == [0, 0, 4, 4] and quarter["area"] == pytest.approx(4 * np.pi, rel=0.002)
    assert (mask_util.decode(dust["segmentation"]) == mask).all() and dust["bbox"] == [3, 2, 2, 5]
    assert group["segmentation"] == [[0, 0, 4, 0, 4, 4], [8, 8, 12, 8, 12, 12]] and group["area"] == 16
    assert group["bbox"] == [0, 0, 12, 12] and old["area"] == 8 and tilted["area"] == 32
    assert "shape of type 'line' (1): " in caplog.text and "shape of type 'point' (1): " in caplog.text


def test_labelme_images(labelme: Path, caplog: pytest.LogCaptureFixture) -> None:
    (labelme / "pictures").mkdir()
    (labelme / "a.png").rename(labelme / "pictures" / "other.png")
    box = shape("rectangle", [[10, 9], [2, 3]])
    write_json(labelme / "a.json", box, imagePath="..\\my labels ü\\pictures\\other.png")
    data = base64.b64encode((labelme / "b.png").read_bytes()).decode()
    (labelme / "b.png").unlink()
    write_json(labelme / "b.json", box, imageData=data)
    write_json(labelme / "c.json", imagePath="renamed since.png", imageWidth=None)
    picture(labelme / "new.png")
    images = converted("labelme", labelme)
    assert [(i["file_name"], len(a)) for i, a in images] == [("a.png", 1), ("b.png", 1), ("c.png", 0), ("d.png", 2)]
    assert Image.open(labelme.parent / "out" / "images" / "b.png").size == (16, 12)
    assert "Left out: 1 images without a JSON file, such as " in caplog.text and "new.png" in caplog.text


def text(name: str, content: str | bytes) -> Callable[[Path], Any]:
    def write(root: Path) -> None:
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def pipe(path: Path) -> None:
    """A pipe in the place of a file, which nobody ever writes into."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def a_json(*shapes: Any, **fields: Any) -> Callable[[Path], Any]:
    return lambda root: write_json(root / "a.json", *shapes, **fields)


A, Y = "labels/a.txt", "data.yaml"
BAD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "binary": ("yolo", text(A, b"\xff\xfe\x00"), r"label file is not text \(1\): .*a.txt"),
    "words": ("yolo", text(A, "0 a b c d"), r"line is not a class .* \(1\): .*a.txt line 1 \(could not convert"),
    "four numbers": ("yolo", text(A, "\n0 1 1 1"), r"\(1\): .*a.txt line 2 \(Invalid YOLO annotation line '0 1 1 1'"),
    "not a number": ("yolo", text(A, "0 nan 0.5 0.5 0.5\n0 0 0 0 inf 1 1"), r"line is not a class .* \(2\): "),
    "class in words": ("yolo", text(A, "cell .5 .5 .5 .5"), "Invalid class id 'cell'"),
    "negative size": ("yolo", text(A, "0 .5 .5 -.5 .5"), "expected a non-negative width"),
    "a class too many": ("yolo", text(A, "2 .5 .5 .5 .5\n-1 .5 .5 .5 .5"), r"class is not one of 0 to 1, .* \(2\): "),
    "no class so large": ("yolo", text(A, f"{10**30} .5 .5 .5 .5"), "line is not a class"),
    "pixels": ("yolo", text(A, "0 8 6 4 4"), r"numbers are not from 0 to 1, .*: .*a.txt line 1 \(0 8 6 4 4\)"),
    "outside": ("yolo", text(A, "0 .9 .5 .9 .5"), r"box reaches outside .*line 1 \(0 .9 .5 .9 .5\) of 16x12"),
    "half a point": ("yolo", text(A, "0 0 0 .5 0 .5 .5 .2"), r"polygon has an odd number of coordinates \(1\)"),
    "label alone": ("yolo", text("labels/z.txt", "0 .5 .5 .5 .5"), r"image is missing \(1\): that of .*labels/z.txt"),
    "two images": (
        "yolo",
        lambda root: picture(root / "images" / "a.jpg"),
        r"one name has more than one image \(1\): .*a.jpg and .*a.png",
    ),
    "image cut": ("yolo", text("images/a.png", b"\x89PNG"), r"image cannot be read \(1\): .*a.png"),
    "no names": ("yolo", text(Y, "train: images"), "does not name its classes: add names to data.yaml, or set --class"),
    "names in one word": ("yolo", text(Y, "names: cell"), "data.yaml: names must be a list of names, or a mapping"),
    "names from 1": (
        "yolo",
        text(Y, "names: {1: cell, 2: dust}"),
        "names must have the numbers 0 to 1, not \\[1, 2\\]",
    ),
    "a path too long": ("yolo", text(Y, f"names: [a, b]\ntrain: {'x' * 5000}"), "train is 'xx.*xx', which is not in"),
    "a name twice": ("yolo", text(Y, "names: [cell, cell]"), "two classes have the name cell"),
    "a name that is yes": ("yolo", text(Y, "names: [cell, no]"), "YAML takes yes, no, on and off .*: quote these"),
    "nc": ("yolo", text(Y, "names: [cell, dust]\nnc: 3"), "nc is 3, but there are 2 names"),
    "not YAML": ("yolo", text(Y, "names: ["), "data.yaml is not valid YAML: "),
    "code in YAML": ("yolo", text(Y, "names: !!python/object/apply:os.getcwd []"), "data.yaml is not valid YAML: "),
    "split elsewhere": (
        "yolo",
        text(Y, "names: [cell, dust]\ntrain: /etc\nval: images"),
        "train is '/etc', which is not in .*: correct the path, or set --val-share",
    ),
    "one split for both": (
        "yolo",
        text(Y, "names: [cell, dust]\ntrain: images\nval: images"),
        "data.yaml has a in both train and val: remove it from one, or set --val-share",
    ),
    "split in numbers": ("yolo", text(Y, "names: [a, b]\ntrain: 3"), "train must be a path or a list of paths, not 3"),
    "no val": ("yolo", lambda root: move(root, {"a": "train", "b": "test"}), "train and val must both have some"),
    "labels only": ("yolo", lambda root: shutil.rmtree(root / "images"), r"image is missing \(4\): that of "),
    "images only": ("yolo", lambda root: shutil.rmtree(root / "labels"), "no label files.*: it has images only"),
    "nothing": (
        "yolo",
        lambda root: [shutil.rmtree(root / name) for name in ("images", "labels")],
        r"no label files.*: it has no images \(.bmp, ",
    ),
    "no objects": ("yolo", lambda root: [f.write_text("") for f in (root / "labels").iterdir()], "have no objects"),
    "YOLO is not LabelMe": ("labelme", text("a.json", "[1"), r"file is not JSON \(1\): .*a.json"),
    "deep": ("labelme", text("a.json", "[" * 100_000), r"file is not JSON \(1\): .*a.json"),
    "empty JSON": ("labelme", text("a.json", ""), r"file is not JSON \(1\): .*a.json"),
    "COCO beside LabelMe": ("labelme", text("z.json", '{"annotations": []}'), r"JSON file is not LabelMe's.*z.json"),
    "no label": (
        "labelme",
        a_json(shape("polygon", [[0, 0]], None), 7),
        r"no label that is text \(2\): .*shape 1",
    ),
    "no points": (
        "labelme",
        a_json(shape("polygon", None)),
        r"shape is not of LabelMe's form, .* \(1\): .*a.json shape 1 \(LabelMe",
    ),
    "two points": ("labelme", a_json(shape("polygon", [[0, 0], [1, 1]])), "expected at least 3"),
    "points by name": (
        "labelme",
        a_json(shape("polygon", {"x": 1})),
        r"shape is not of LabelMe's form, .* \(1\): .*shape 1",
    ),
    "points are NaN": (
        "labelme",
        a_json(shape("polygon", [[0, 0], [1, 1], [float("nan"), 2]])),
        "shape is not of LabelMe's form",
    ),
    "points are huge": (
        "labelme",
        a_json(shape("polygon", [[0, 0], [1, 1], [10**400, 2]])),
        "shape is not of LabelMe's form",
    ),
    "points outside": ("labelme", a_json(shape("rectangle", [[0, 0], [99, 9]])), r"box reaches outside .*0, 0, 99, 9"),
    "circle of one point": ("labelme", a_json(shape("circle", [[4, 4]])), "a circle has two points of two numbers"),
    "mask of nothing": ("labelme", a_json(shape("mask", [[0, 0], [3, 3]], mask="?")), "its mask is not an image"),
    "mask outside": (
        "labelme",
        a_json({**labelme_mask(np.ones((12, 16), bool)), "label": "cell", "points": [[5, 5], [20, 16]]}),
        "its mask reaches outside the image",
    ),
    "no image": ("labelme", lambda root: (root / "a.png").unlink(), r"image is missing \(1\): that of .*a.json, which"),
    "image elsewhere": (
        "labelme",
        lambda root: [
            (root / "a.png").rename(root.parent / "z.png"),
            write_json(root / "a.json", imagePath="../z.png"),
        ],
        r"image is not in .*: name the folder that holds both \(1\): .*a.json has ../z.png",
    ),
    "imageData": (
        "labelme",
        lambda root: [(root / "a.png").unlink(), write_json(root / "a.json", imageData="AAAA")],
        r"imageData is not an image \(1\): .*a.json",
    ),
    "imagePath too long": (
        "labelme",
        lambda root: [(root / "a.png").unlink(), write_json(root / "a.json", imagePath="x" * 5000)],
        "image is missing",
    ),
    "one image twice": ("labelme", a_json(imagePath="b.png"), r"image has two JSON files \(1\): .*b.png has "),
    "a huge size": ("labelme", a_json(imageWidth=10**400), r"another size than its image .*a.json has ...x12, "),
    "other size": ("labelme", a_json(imageWidth=99), r"another size than its image \(1\): .*a.json has 99x12, "),
    "size in words": ("labelme", a_json(imageWidth="wide"), r"is not a number \(1\): .*a.json \('wide', 12\)"),
    "size true": ("labelme", a_json(imageHeight=True), "width or height of the image is not a number"),
    "sides exchanged": (
        "labelme",
        a_json(imageWidth=12, imageHeight=16),
        r"another size .*a.json has 12x16, .*a.png is 16x12: width and height are exchanged",
    ),
    "label of half a character": (
        "labelme",
        a_json(shape("rectangle", [[0, 0], [9, 9]], "\ud800")),
        r"what UTF-8 cannot hold: rename it \(1\): '\\ud800' of .*a.png",
    ),
    "name of half a character": (
        "yolo",
        text(Y, 'names: [cell, "\\ud800"]'),
        r"The class '\\ud800' has control characters, or ",
    ),
    "file name of bytes": (
        "yolo",
        lambda root: (root / "images" / "a.png").rename(root / "images" / "z\udcff.png"),
        r"what UTF-8 cannot hold: rename it \(1\): 'z\\udcff.png' of ",
    ),
    "a folder as label": (
        "yolo",
        lambda root: [(root / A).unlink(), (root / A).mkdir()],
        r"label file cannot be read \(1\): .*a.txt \(it is a folder, not a file\)",
    ),
    "a folder as image": (
        "yolo",
        lambda root: [(root / "images" / "a.png").unlink(), (root / "images" / "a.png").mkdir()],
        r"image cannot be read \(1\): .*a.png \(it is a folder, not a file\)",
    ),
    "a pipe as label": (
        "yolo",
        lambda root: pipe(root / A),
        r"label file cannot be read \(1\): .*a.txt \(it is a pipe, not a file\)",
    ),
    "a pipe as JSON": (
        "labelme",
        lambda root: pipe(root / "a.json"),
        r"file cannot be read .*\(it is a pipe, not a",
    ),
    "a pipe as YAML": ("yolo", lambda root: pipe(root / Y), r"data.yaml cannot be read \(it is a pipe, not a file\)"),
    "a pipe as image": (
        "yolo",
        lambda root: pipe(root / "images" / "a.png"),
        r"image cannot be read \(1\): .*a.png \(it is a pipe, not a file\)",
    ),
    "a pipe as list": (
        "yolo",
        lambda root: [text(Y, "names: [cell, dust]\ntrain: train.txt\nval: images")(root), pipe(root / "train.txt")],
        r"train.txt cannot be read \(it is a pipe, not a file\)",
    ),
    "no objects to train on": (
        "yolo",
        lambda root: [move(root, FOLDERS), *((root / "labels" / "train" / f"{n}.txt").write_text("") for n in "ac")],
        "The 2 images of the split train have no objects: nothing can be learned from them",
    ),
    "EXIF": (
        "labelme",
        lambda root: picture(root / "a.png", orientation=6),
        "a.json has 16x12, .*a.png is 12x16 as its EXIF orientation turns it",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named(case: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    kind, spoil, message = BAD[case]
    source = request.getfixturevalue(kind)
    spoil(source)
    with pytest.raises(DatasetError, match=message) as error:
        PREPARE[kind](source, tmp_path / "out" / kind)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900
    assert list((tmp_path / "out").iterdir()) == []  # nothing half


VOC_SIZE = "<size><width>16</width><height>12</height></size>"
VOC_BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"


def voc_object(difficult: str = "0") -> str:
    return f"<object><name>cell</name><difficult>{difficult}</difficult>{VOC_BOX}</object>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Four images with a box each."""
    root = tmp_path / "voc"
    for name in "abcd":
        picture(root / f"{name}.png")
        (root / f"{name}.xml").write_text(f"<annotation>{VOC_SIZE}{voc_object()}</annotation>")
    return root


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (VOC_SIZE + voc_object("perhaps"), r"difficult is neither 0 nor 1 \(1\): .*a.xml object 1 \('perhaps'\)"),
        (VOC_SIZE.replace("16", "w") + voc_object(), r"width or height of the image is not a number .*\('w', '12'\)"),
        (
            "<size><width>12</width><height>16</height></size>" + voc_object(),
            r"a.xml has 12x16, .*a.png is 16x12: width and height are exchanged",
        ),
        (f"<objects>{voc_object()}</objects>", r"object is not directly in <annotation>, or not called <object> \(1\)"),
        (voc_object().replace("object>", "Object>"), r"not called <object> \(1\): .*a.xml \(<Object>\)"),
    ],
)
def test_what_is_wrong_in_voc_is_named(inner: str, message: str, voc: Path, tmp_path: Path) -> None:
    (voc / "a.xml").write_text(f"<annotation>{inner}</annotation>")
    with pytest.raises(DatasetError, match=message):
        prepare_voc(voc, tmp_path / "out")


def test_objects_that_are_difficult_are_counted(voc: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (voc / "a.xml").write_text(f"<annotation>{voc_object('yes')}{voc_object()}{voc_object('no')}</annotation>")
    counts = prepare_voc(voc, tmp_path / "out")
    assert sum(numbers["objects"] for numbers in counts.values()) == 6
    assert "Left out: object marked as difficult, which becomes a crowd" in caplog.text and "(1): " in caplog.text
    for file in voc.glob("*.xml"):
        file.write_text(f"<annotation>{voc_object('1')}</annotation>")
    with pytest.raises(DatasetError, match="train have no objects but 3 marked as difficult, which become crowds"):
        prepare_voc(voc, tmp_path / "out", overwrite=True)
    pipe(voc / "a.xml")
    with pytest.raises(DatasetError, match=r"annotation file cannot be read \(1\): .*a.xml \(it is a pipe, not a file"):
        prepare_voc(voc, tmp_path / "out2")


def test_sizes_in_quotes_are_read(labelme: Path) -> None:
    write_json(labelme / "a.json", shape("rectangle", [[0, 0], [9, 9]]), imageWidth="16", imageHeight=" 12 ")
    assert len(converted("labelme", labelme)) == 4


def test_a_list_of_classes_may_begin_with_a_byte_order_mark(yolo: Path) -> None:
    (yolo / "data.yaml").unlink()
    (yolo / "classes.txt").write_bytes(b"\xef\xbb\xbfcell\r\ndust\r\n")
    assert {a["category"] for _, objects in converted("yolo", yolo) for a in objects} == {"cell", "dust"}


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -1.0, float("nan"), 0.01])
def test_a_share_that_cannot_be_is_refused_before_anything_is_read(share: float, yolo: Path, tmp_path: Path) -> None:
    (yolo / "labels" / "a.txt").write_text("what is read would be refused")
    with pytest.raises(DatasetError, match="--val-share$"):
        prepare_yolo(yolo, tmp_path / "out", val_share=share)


def test_the_wrong_command_is_named(yolo: Path, tmp_path: Path) -> None:
    labelme, voc, coco = (tmp_path / name for name in ("labelme", "voc", "coco"))
    for folder in (labelme, voc, coco):
        picture(folder / "a.png")
    write_json(labelme / "a.json", shape("rectangle", [[0, 0], [9, 9]]))
    (voc / "a.xml").write_text("<annotation/>")
    (voc / "cell_train.txt").write_text("a 1\n")  # VOC has lists of each class
    (coco / "instances.json").write_text('{"images": [], "annotations": []}')
    folders = {"yolo": yolo, "labelme": labelme, "voc": voc}
    for kind, command in ((k, c) for k in PREPARE for c in folders if k != c):
        with pytest.raises(
            DatasetError, match=f"has no .*: it looks like a data set for `python tools/prepare.py {command}`"
        ):
            PREPARE[kind](folders[command], tmp_path / "out")
    for prepare in PREPARE.values():
        with pytest.raises(DatasetError, match="instances.json looks like COCO's format, which DATASETS.REGISTER_COCO"):
            prepare(coco, tmp_path / "out")


@pytest.mark.parametrize("kind", ["yolo", "labelme"])
def test_without_the_library(kind: str, yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"supervision.dataset.formats.{kind}", None)
    with pytest.raises(UserError, match=r"need supervision 0.31 or newer .*: pip install 'fpt_d2\[convert\]'"):
        PREPARE[kind](yolo, yolo.parent / "out")


def test_a_sixth_number_beside_a_box_is_said(yolo: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may be the score of a prediction, or half of a polygon's third point."""
    (yolo / "labels" / "a.txt").write_text("0 .5 .5 .5 .5 .9")
    assert len(converted("yolo", yolo)) == 4
    assert "sixth number beside a box, taken for the score of a prediction (1): " in caplog.text


def test_a_config_with_the_data_set_is_written(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fpt_d2.data.datasets.sem_seg.DATASETS_ROOT", tmp_path / "data sets")
    words = ["voc", str(voc), "--name", "cells", "--config-file"]
    with pytest.raises(SystemExit, match="There is no config file Misc/nothing.yaml"):
        fpt_prepare([*words, "Misc/nothing.yaml"])
    assert not (tmp_path / "data sets").exists()
    base = "Misc/faster_rcnn_lite0_FPT_finetune.yaml"
    assert fpt_prepare([*words, base]) == 0
    assert "train_net.py --config-file cells.yaml" in capsys.readouterr().out
    cfg, expected = read_config("cells.yaml"), read_config(base)
    assert cfg.DATASETS.TRAIN == ("cells_train",) and cfg.MODEL.ROI_HEADS.NUM_CLASSES == 1
    assert Path(cfg.DATASETS.REGISTER_COCO[0][1]).is_file() and cfg.OUTPUT_DIR == "output/cells"
    assert cfg.MODEL.TRUNK == expected.MODEL.TRUNK and cfg.SOLVER == expected.SOLVER
    with pytest.raises(SystemExit, match="cells.yaml is there already: add --overwrite"):
        fpt_prepare([*words, base])


def test_a_config_of_the_users_is_not_lost(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fpt_d2.data.datasets.sem_seg.DATASETS_ROOT", Path("datasets"))
    words = ["voc", str(voc), "--name", "cells", "--overwrite", "--config-file"]
    base, own = "Misc/faster_rcnn_lite0_FPT_finetune.yaml", tmp_path / "cells.yaml"
    own.write_text("SOLVER: {BASE_LR: 0.5}\n")
    with pytest.raises(SystemExit, match="cells.yaml is the config itself"):
        fpt_prepare([*words, "cells.yaml"])
    assert not Path("datasets").exists()
    for _ in range(2):  # the second run finds its own file
        assert fpt_prepare([*words, base]) == 0
        assert "0.5" in Path("cells.yaml.bak").read_text() and "lite0" in own.read_text()
    monkeypatch.chdir(tmp_path.parent)
    assert all(Path(path).exists() for path in read_config(str(own)).DATASETS.REGISTER_COCO[0][1:])


def test_a_config_that_cannot_take_boxes_is_refused_first(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fpt_d2.data.datasets.sem_seg.DATASETS_ROOT", tmp_path / "datasets")
    words = ["voc", str(voc), "--name", "cells", "--config-file"]
    with pytest.raises(SystemExit, match="is of a SemanticSegmentor, which does not learn from boxes"):
        fpt_prepare([*words, "ADE20K-SemanticSegmentation/ufp_fpt_R_101.yaml"])
    Path("cells.yaml").mkdir()
    with pytest.raises(SystemExit, match="cells.yaml is a folder: choose another --name"):
        fpt_prepare([*words, "Misc/faster_rcnn_lite0_FPT_finetune.yaml", "--overwrite"])
    assert not Path("datasets").exists()
