"""What an annotation file may hold: what is read, what is refused and how it is named."""

from __future__ import annotations

import codecs
import copy
import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from fpt_d2.data.checks.coco import Use, check_image_files, check_left_out
from fpt_d2.data.coco import read_coco, stream
from fpt_d2.errors import DatasetError
from tests.data.coco_files import GOOD, RLE, TRAINING, errors

Content = dict[str, Any]
TRIANGLE = [0, 0, 10, 0, 10, 10]


def box(*value: Any) -> Callable[[Content], Any]:
    return lambda c: c["annotations"][0].update(bbox=list(value))


def mask(value: Any) -> Callable[[Content], Any]:
    return lambda c: c["annotations"][0].update(segmentation=value)


def runs(**changes: Any) -> Callable[[Content], Any]:
    return lambda c: c["annotations"][1].update(segmentation={**RLE, **changes})


def first(**changes: Any) -> Callable[[Content], Any]:
    return lambda c: c["annotations"][0].update(changes)


def image(**changes: Any) -> Callable[[Content], Any]:
    return lambda c: c["images"][0].update(changes)


def category(**changes: Any) -> Callable[[Content], Any]:
    return lambda c: c["categories"][0].update(changes)


def compressed(height: int, width: int) -> str:
    return mask_util.encode(np.asfortranarray(np.eye(height, width, dtype=np.uint8)))["counts"].decode()


NAMED = "annotation 1 of image 'a.jpg'"
NOT_A_NUMBER = "polygon has a coordinate that is not a number (1): annotation 1 of image 'a.jpg' "
PAIRS = "polygon is a list of points [[x, y], ...], where COCO has numbers alone"
NOT_THE_PIXELS = "RLE counts do not add up to the pixels of its image (1): annotation 2 of image 'sub/b.jpg'"
NOTHING = "nothing can be learned from the annotations (1): "
REFUSED = [
    (lambda c: c.pop("images"), "top-level key missing or empty (1): images"),
    (lambda c: c.update(categories=[]), "top-level key missing or empty (1): categories"),
    (lambda c: c.pop("annotations"), "top-level key missing or empty (1): annotations"),
    (lambda c: c.update(annotations={"1": 2}), "top-level key is not a list (1): annotations"),
    (lambda c: c["images"][0].pop("height"), "record without height (1): image 'a.jpg'"),
    (lambda c: c["annotations"][0].pop("bbox"), "record without bbox (1): annotation 1 of image 'a.jpg'"),
    (lambda c: c["images"].append("x.jpg"), "record is not an object (1): images[2]"),
    (image(width=0), "width is not a positive whole number (1): image 'a.jpg' (0)"),
    (image(height=-80), "height is not a positive whole number (1): image 'a.jpg' (-80)"),
    (image(width=99.5), "width is not a positive whole number (1): image 'a.jpg' (99.5)"),
    (image(width="100"), "width is not a positive whole number (1): image 'a.jpg' ('100')"),
    (image(width=10**400), "width is not a positive whole number (1): image 'a.jpg' (a number of very many digits)"),
    (image(file_name=7), "file_name is not text (1): image 7 (7)"),
    (image(file_name="no.jpg"), "image file does not exist (1): no.jpg"),
    (image(file_name="no/a.jpg"), "image file does not exist (1): no/a.jpg"),
    (
        lambda c: c["images"].insert(0, {**GOOD["images"][0], "id": 9, "height": 8}),
        "image has another size than its width and height say (1): a.jpg is 100x80, not 100x8",
    ),
    (category(keypoints=["\x1b[2J"]), r"keypoint name is blank or has control characters (1): '\x1b[2J'"),
    (category(keypoints=[" "]), "keypoint name is blank or has control characters (1): ' '"),
    (image(id=True), "id is neither a whole number nor text (1): image 'a.jpg' (True)"),
    (image(id="1"), "ids of images are partly numbers and partly text (1): 2 and '1'"),
    (category(id="3"), "ids of categories are partly numbers and partly text (1): 7 and '3'"),
    (category(name=0), "category name is not text (1): category 3 (0)"),
    (category(name=None), "category name is not text (1): category 3 (None)"),
    (category(name="\x1b[2Jcat"), r"category name is blank or has control characters (1): '\x1b[2Jcat'"),
    (category(name=" "), "category name is blank or has control characters (1): ' '"),
    (category(name="dog"), "category name is not unique (1): 'dog'"),
    (lambda c: c["images"][1].update(id=1), "id is not unique (1): image 'sub/b.jpg'"),
    (lambda c: c["annotations"][1].update(id=1), "id is not unique (1): annotation 1 of image 'sub/b.jpg'"),
    (lambda c: c["categories"][1].update(id=3), "id is not unique (1): category 3"),
    (lambda c: c["annotations"][1].update(id=[1]), "id is neither a whole number nor text (1): annotation [1]"),
    (first(category_id=1), f"category id is not among the categories (1): {NAMED} (1)"),
    (
        first(category_id="3"),
        f"category_id is text, where the ids of categories are numbers (1): {NAMED} (write 3 in place of '3')",
    ),
    (first(category_id="4"), f"category id is not among the categories (1): {NAMED} ('4')"),
    (
        first(image_id="1"),
        "image_id is text, where the ids of images are numbers (1): ",
    ),
    (image(file_name="."), "image file cannot be read (1): . (it is a folder, not a file)"),
    (image(file_name="sub/"), "image file cannot be read (1): sub/ (it is a folder, not a file)"),
    (image(file_name="a\0\x1b[2J\n.jpg"), r"image file does not exist (1): a\x00\x1b[2J\n.jpg"),
    (image(file_name="x" * 5000), f"image file does not exist (1): {'x' * 497}..."),
    (
        box(5, 5, 0, 0),
        NOTHING + "box of no area, which trainings leave out (1); ",
    ),
    (box(-1, 0, 1, 10), NOTHING + "box of no area"),
    (mask([[0, 0, 5, 5, 10, 10]]), NOTHING + "mask of no area (points on one "),
    (
        mask([[3, 3, 3, 3, 3, 3], [0, 0, 9, 0, 1, 0]]),
        NOTHING + "mask of no area",
    ),
    (
        lambda c: (mask(RLE)(c), box(0, 0, 10, 10)(c)),
        NOTHING + "mask of no area",
    ),
    (mask({"size": [80, 100], "counts": [7990, 10]}), f"mask (RLE) outside its box (1): {NAMED}"),
    (runs(counts=[0, 10, 7990]), "mask (RLE) outside its box (1): annotation 2 of image 'sub/b.jpg'"),
    (first(category_id=float("nan")), f"category_id is neither a whole number nor text (1): {NAMED} (nan)"),
    (first(image_id=9), "image id is not among the images (1): annotation 1 of image 9"),
    (first(ignore=1), f'"ignore" is not supported by Detectron2 (1): {NAMED}'),
    (first(area="512"), f"area is not a number of at least 0 (1): {NAMED} ('512')"),
    (first(area=[50]), f"area is not a number of at least 0 (1): {NAMED} ([50])"),
    (first(area=float("nan")), f"area is not a number of at least 0 (1): {NAMED} (nan)"),
    (first(area=-1), f"area is not a number of at least 0 (1): {NAMED} (-1)"),
    (first(area=1e6), f"area is larger than its image (1): {NAMED}"),
    (first(iscrowd=None), f"iscrowd is neither 0 nor 1 (1): {NAMED} (None)"),
    (first(iscrowd="0"), f"iscrowd is neither 0 nor 1 (1): {NAMED} ('0')"),
    (first(iscrowd=2), f"iscrowd is neither 0 nor 1 (1): {NAMED} (2)"),
    (first(iscrowd=1), "nothing can be learned from the annotations (1): crowd, which trainings leave out (2)"),
    (box(50, 40, 90, 75), "box reaches outside its image (COCO's boxes are x, y, width, height) (1)"),
    (box(-3, 0, 10, 10), "box reaches outside its image"),
    (box(200, 0, 10, 10), "box reaches outside its image"),
    (box(50, 40, -10, 10), f"box with a negative size (1): {NAMED} ([50.0, 40.0, -10.0, 10.0])"),
    (box(50, 40, 10), f"box is not four numbers (1): {NAMED} ([50, 40, 10])"),
    (box(50, 40, 10, float("nan")), f"box is not four numbers (1): {NAMED} (nan)"),
    (box(50, 40, 10, float("inf")), f"box is not four numbers (1): {NAMED} (inf)"),
    (box(50, 40, 10, 10**400), f"box is not four numbers (1): {NAMED} (a number of very many digits)"),
    (box(50, 40, 10, "10"), f"box is not four numbers (1): {NAMED} ('10')"),
    (box([0, 0], [10, 10]), f"box is not four numbers (1): {NAMED}"),
    (first(bbox=None), f"box is not four numbers (1): {NAMED} (None)"),
    (box(0.1, 0.2, 0.5, 0.5), "box, polygon or keypoints within 0...1, which looks normalized"),
    (mask([[0.1, 0.1, 0.5, 0.1, 0.5, 0.5]]), "box, polygon or keypoints within 0...1, which looks normalized"),
    (mask([]), f"no segmentation, which MODEL.MASK_ON needs (1): {NAMED}"),
    (mask(None), f"no segmentation, which MODEL.MASK_ON needs (1): {NAMED}"),
    (lambda c: c["annotations"][0].pop("segmentation"), f"no segmentation, which MODEL.MASK_ON needs (1): {NAMED}"),
    (mask([[]]), f"polygon is empty or has fewer than 3 points (1): {NAMED}"),
    (mask([[1, 1, 2, 2]]), f"polygon is empty or has fewer than 3 points (1): {NAMED}"),
    (mask([[1, 1, 2, 2, 3, 3, 4]]), f"polygon with an odd number of coordinates (1): {NAMED}"),
    (mask([1, 1, 2, 2, 3, 3]), "segmentation is not a list of polygons"),
    (mask([[0, 0], [10, 0], [10, 10]]), PAIRS),
    (mask([[[0, 0], [10, 0], [10, 10]]]), PAIRS),
    (mask("mask.png"), f"segmentation is neither polygons nor RLE (1): {NAMED}"),
    (mask([[float("nan"), *TRIANGLE[1:]]]), NOT_A_NUMBER + "(nan)"),
    (mask([[None, *TRIANGLE[1:]]]), NOT_A_NUMBER + "(None)"),
    (mask([TRIANGLE, ["12", *TRIANGLE[1:]]]), NOT_A_NUMBER + "('12')"),
    (mask([[10**400, *TRIANGLE[1:]]]), NOT_A_NUMBER + "(a number of very many digits)"),
    (mask([[1e9, *TRIANGLE[1:]]]), f"polygon reaches far outside its image (1): {NAMED}"),
    (mask([TRIANGLE, [200, 0, 210, 0, 210, 10]]), f"polygon outside its image (1): {NAMED}"),
    (mask([[50, 50, 60, 50, 60, 60]]), f"polygon outside its box (1): {NAMED}"),
    (mask(RLE), f"RLE needs INPUT.MASK_FORMAT bitmask, which is polygon (1): {NAMED}"),
    (runs(size=[100, 80]), "RLE does not fit the size of its image (1)"),
    (runs(size=64), "RLE size is not [height, width] (1)"),
    (runs(size=True), "RLE size is not [height, width] (1)"),
    (runs(size=[80, "100"]), "RLE size is not [height, width] (1)"),
    (runs(counts=[80]), NOT_THE_PIXELS),
    (runs(counts=[-1, 8001]), "RLE counts are neither text nor numbers of pixels (1)"),
    (
        lambda c: (c["images"][1].update(height=2**16, width=2**16), runs(size=[2**16] * 2, counts=[2**32])(c)),
        "RLE counts are neither text nor numbers of pixels (1)",
    ),
    (runs(counts=7), "RLE counts are neither text nor numbers of pixels (1)"),
    (runs(counts=compressed(80, 90)), NOT_THE_PIXELS),
    (runs(counts="garbage, as it may be"), NOT_THE_PIXELS),
    (runs(counts="oooooooooooooooooo"), NOT_THE_PIXELS),
    (runs(counts="ключ"), NOT_THE_PIXELS),
    (runs(counts=f"b'{compressed(80, 100)}'"), "RLE counts are Python's print of bytes"),
    (lambda c: c["annotations"][1].update(segmentation={"counts": "abc"}), "record without size (1)"),
    (first(keypoints="zz"), f"keypoints are not a list of numbers [x1, y1, v1, x2, y2, v2, ...] (1): {NAMED} ('zz')"),
    (first(keypoints=[[1, 2, 2]]), "keypoints are not a list of numbers"),
    (first(keypoints=[1, 2, None]), "keypoints are not a list of numbers"),
    (first(keypoints=[1, 2, "2"]), "keypoints are not a list of numbers"),
    (
        first(keypoints=[1, 2, 3, 4]),
        f"number of values of keypoints is not a multiple of 3 (x, y, visibility of each) (1): {NAMED} (4)",
    ),
    (first(keypoints=[1, 2, 3]), f"visibility of a keypoint is neither 0, 1 nor 2 (1): {NAMED}"),
    (first(keypoints=[500, 2, 2]), f"keypoint outside its image (1): {NAMED}"),
    (first(keypoints=[0.1, 0.2, 2, 0.5, 0.5, 1]), "box, polygon or keypoints within 0...1"),
    (
        first(keypoints=[1, 2, 2], num_keypoints=3),
        "num_keypoints is not the number of keypoints with",
    ),
]


@pytest.mark.parametrize("spoil, line", REFUSED, ids=[f"{i}: {line[:60]}" for i, (_, line) in enumerate(REFUSED)])
def test_what_has_no_meaning_is_refused(spoil: Any, line: str, content: Content, image_root: Path) -> None:
    spoil(content)
    assert any(found.startswith(line) for found in errors(content, image_root)), errors(content, image_root)


def as_floats(value: Any) -> Any:
    """1.0 for 1, as some exporters write."""
    if isinstance(value, dict):
        return {key: as_floats(v) for key, v in value.items()}
    if isinstance(value, list):
        return [as_floats(v) for v in value]
    return float(value) if isinstance(value, int) else value


def as_text(content: Content) -> None:
    for key, fields in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["id", "image_id", "category_id"])):
        for record in content[key]:
            record.update({field: f"x{record[field]}" for field in fields})


READ = [
    lambda c: None,
    lambda c: c.update(as_floats(c)),
    as_text,
    first(iscrowd=False),
    first(keypoints=None, area=None),
    first(keypoints=[0, 0, 0, 9.5, 79, 1]),
    mask([[-2, 0, 102, 0, 102, 80]]),
    runs(counts=compressed(80, 100)),
    runs(counts=[0, 8000]),
    lambda c: c.update(info={"year": 2026}, licenses=[], extra=[1]),
    lambda c: c["annotations"][0].pop("iscrowd"),
]


@pytest.mark.parametrize("change", READ)
def test_what_has_one_meaning_is_read(change: Any, content: Content, image_root: Path) -> None:
    change(content)
    assert errors(content, image_root) == []
    read = read_coco(str(image_root.parent / "written.json"))
    assert [type(value) for value in read.images[0].values()][2:] == [int, int]
    assert [annotation.get("iscrowd", 0) for annotation in read.annotations] == [0, 1]
    assert all(isinstance(annotation["id"], int) for annotation in read.annotations)


def test_ids_from_0_are_numbered_anew(content: Content, image_root: Path) -> None:
    content["annotations"][0]["id"], content["annotations"][1]["id"] = 1, 0
    assert errors(content, image_root) == []
    read = read_coco(str(image_root.parent / "written.json"))
    assert [annotation["id"] for annotation in read.annotations] == [1, 2]
    (line,) = read.changes.lines()
    assert line.startswith("annotation id that is not a number above 0, numbered anew")
    assert line.endswith("(1): annotation 0 of image 'sub/b.jpg'")
    # Detectron2's own evaluator would read the file itself.
    assert errors(content, image_root, Use(is_evaluated=True, is_read_again=True)) == [line]


def test_what_is_left_out_is_said(content: Content, image_root: Path) -> None:
    """A bow tie, whose two halves the formula for the area of a polygon subtracts from each other, is not left out."""
    new = [
        {"bbox": [5, 5, 0, 3]},
        {"segmentation": [[1, 1, 5, 5, 9, 9]]},
        {"segmentation": [[0, 0, 10, 10, 10, 0, 0, 10]]},
        {"segmentation": [[1, 1, 5, 5, 9, 9], TRIANGLE]},
    ]
    content["annotations"] += [GOOD["annotations"][0] | {"id": 10 + i} | fields for i, fields in enumerate(new)]
    assert errors(content, image_root) == []
    lines = check_left_out(read_coco(str(image_root.parent / "written.json")), TRAINING).lines()
    assert [line.partition(": ")[0].partition(" (")[0] + line.partition(":")[2][:14] for line in lines] == [
        "crowd, which trainings leave out annotation 2 ",
        "box of no area, which trainings leave out annotation 10",
        "mask of no area annotation 11",
    ]


def test_a_few_small_objects_are_not_normalized(content: Content, image_root: Path) -> None:
    small = {"bbox": [0, 0, 1, 1], "area": 0.5, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    content["annotations"] += [GOOD["annotations"][0] | {"id": 10 + i} for i in range(200)]
    content["annotations"] += [GOOD["annotations"][0] | {"id": 9} | small]
    assert errors(content, image_root) == []
    warnings = read_coco(str(image_root.parent / "written.json")).warnings.lines()
    assert [line.partition(", which looks")[0] for line in warnings] == ["box, polygon or keypoints within 0...1"]


def test_images_that_are_listed_twice_or_lie_elsewhere_are_named(content: Content, image_root: Path) -> None:
    content["images"].append({"id": 3, "file_name": "./a.jpg", "height": 80, "width": 100})
    content["images"].append({"id": 4, "file_name": "../images/a.jpg", "height": 80, "width": 100})
    assert errors(content, image_root) == []
    warnings = read_coco(str(image_root.parent / "written.json")).warnings.lines()
    assert "image is listed more than once (1): './a.jpg'" in warnings
    assert "image lies outside the folder of images (1): '../images/a.jpg'" in warnings


def test_every_problem_is_named_at_once(content: Content, image_root: Path) -> None:
    """Those of the form do not hide those of the meaning, in whichever order the keys come."""
    content["annotations"] += [GOOD["annotations"][0] | {"id": 10 + i, "bbox": [0, 0, 900, 10]} for i in range(20)]
    content["annotations"] += [GOOD["annotations"][0] | {"id": 40 + i, "area": "1", "iscrowd": "1"} for i in range(7)]
    content["images"][1]["height"] = None
    content = dict(reversed(content.items()))
    assert [line.partition("): ")[0] for line in errors(content, image_root)] == [
        "area is not a number of at least 0 (7",
        "iscrowd is neither 0 nor 1 (7",
        "height is not a positive whole number (1",
        "box reaches outside its image (COCO's boxes are x, y, width, height) (20",
    ]


ENCODED: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda text: codecs.BOM_UTF8 + text, ""),
    (lambda text: text.decode().encode("utf-16"), ""),
    (lambda text: text.decode().encode("utf-32"), ""),
    (lambda text: b"\n \t" + text + b"\r\n", ""),
    (gzip.compress, "is compressed by gzip: unpack it"),
    (lambda text: b"", "is empty"),
    (lambda text: b"  \n", "is empty"),
    (lambda text: text[:-1], "is not valid JSON (the file ends too early, at character"),
    (lambda text: text[:100], "is not valid JSON (the file ends too early"),
    (lambda text: text + b"{}", "is not valid JSON (nothing is expected after the object"),
    (lambda text: text.replace(b"[0, 0", b"[0 0", 1), "is not valid JSON (Expecting ',' delimiter, at character"),
    (lambda text: b"[" + text + b"]", "is not an object with images, annotations and categories"),
    (lambda text: b"null", "is not an object with images, annotations and categories"),
    (lambda text: b"\xff\xd8\xff\xe0" + text, "is not text in utf-8"),
    (lambda text: b'{"a": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", "lists or objects are nested too deeply"),
    (lambda text: b'{"a": 1' + b"0" * 5000 + b"}", "a number has thousands of digits"),
    (lambda text: b'{"images": [], "images": []}', "the key 'images' stands there twice"),
    (lambda text: b"{1: 2}", "is not valid JSON (a key and a colon are expected"),
]


@pytest.mark.parametrize("window", [7, 2**23])
@pytest.mark.parametrize("encode, message", ENCODED, ids=[f"{i}: {m[:50]}" for i, (_, m) in enumerate(ENCODED)])
def test_the_text_of_a_file(
    encode: Callable[[bytes], bytes], message: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BYTES", window)
    path = tmp_path / "instances.json"
    content = copy.deepcopy(GOOD)
    content["categories"][0]["name"] = 'кот "\\ \U0001f408'
    path.write_bytes(encode(json.dumps(content).encode()))
    if message:
        with pytest.raises(DatasetError) as caught:
            read_coco(str(path))
        assert message in str(caught.value) and str(caught.value).startswith(str(path))
    else:
        read = read_coco(str(path))
        assert read.errors.lines() == [] and len(read.annotations) == 2
        assert read.categories == content["categories"]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is a folder, where an annotation file is needed"):
        read_coco(str(tmp_path))
    with pytest.raises(DatasetError, match="none.json does not exist"):
        read_coco(str(tmp_path / "none.json"))


def test_a_file_is_read_once(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    read = read_coco(str(path))
    assert read_coco(str(path)) is read
    content["images"].pop()
    path.write_text(json.dumps(content))
    assert len(read_coco(str(path)).images) == 1


def test_the_progress_of_a_large_file_is_said(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(stream, "_BYTES", 100)
    monkeypatch.setattr(stream, "_SECONDS", 0)
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with caplog.at_level(logging.INFO, logger="fpt_d2"):
        read_coco(str(tmp_path / "instances.json"))
    assert "Reading" in caplog.text and caplog.text.count(" MB") > 3


def test_masks_are_checked_only_where_they_are_trained(content: Content, image_root: Path) -> None:
    content["annotations"][0]["segmentation"] = []
    assert errors(content, image_root, TRAINING._replace(mask_format=None)) == []
    content["annotations"][0]["segmentation"] = RLE | {"counts": [0, 8000]}
    assert errors(content, image_root, TRAINING._replace(mask_format="bitmask")) == []


def test_a_test_set_may_come_without_annotations(content: Content, image_root: Path) -> None:
    del content["annotations"]
    assert errors(content, image_root, Use(is_evaluated=True)) == []
    (line,) = errors(content, image_root, Use(is_evaluated=True, needs_objects=("TEST.LOSS", "TEST.PATIENCE")))
    assert line == "no annotation that is not a crowd, which the config needs (1): TEST.LOSS, TEST.PATIENCE"


@pytest.mark.parametrize("area, count", [(0, 1), (145, 0), (500, 1)])
def test_areas_that_are_not_those_of_their_boxes_are_named(
    area: float, count: int, content: Content, image_root: Path
) -> None:
    """By them APs, APm and APl are told apart, and keypoints counted as right."""
    content["annotations"][0]["area"] = area
    assert errors(content, image_root) == []
    warnings = read_coco(str(image_root.parent / "written.json")).warnings.lines()
    assert [line.partition(":")[0] for line in warnings] == ["area is 0, or larger than its box"] * count


def test_whole_paths_without_a_folder_are_checked(content: Content, image_root: Path) -> None:
    for record in content["images"]:
        record["file_name"] = str(image_root / record["file_name"])
    written = image_root.parent / "written.json"
    written.write_text(json.dumps(content))
    assert check_image_files(read_coco(str(written)), "")[0].lines() == []
    content["images"][0]["height"] = 8
    written.write_text(json.dumps(content))
    (line,) = check_image_files(read_coco(str(written)), "")[0].lines()
    assert line.startswith("image has another size than its width and height say (1): ")
