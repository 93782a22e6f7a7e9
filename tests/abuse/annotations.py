"""Annotation files that are not as they should be. ``tests/data/test_coco.py`` has more, without a command line."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from typing import Any

from tests.abuse.cases import Case, Place

Content = dict[str, Any]
Spoil = Callable[[Place], "list[object] | None"]


def first(split: str = "train", **fields: Any) -> Spoil:
    """Fields of the first annotation."""
    return edited(lambda content: content["annotations"][0].update(fields), split)


def all_of(key: str = "annotations", split: str = "train", **fields: Any) -> Spoil:
    return edited(lambda content: [record.update(fields) for record in content[key]], split)


def edited(change: Callable[[Content], Any], split: str = "train", *words: object) -> Spoil:
    def spoil(place: Place) -> list[object]:
        place.edit(change, split)
        return list(words)

    return spoil


def rewritten(change: Callable[[bytes], bytes]) -> Spoil:
    def spoil(place: Place) -> None:
        place.annotations().write_bytes(change(place.annotations().read_bytes()))

    return spoil


def outside(content: Content) -> None:
    image = content["images"][0]
    image["file_name"] = f"../train/{image['file_name']}"


def polygon(*start: Any, split: str = "train") -> Spoil:
    return first(split, segmentation=[[*start, 5, 5, 9, 5, 9, 9][:8]])


def runs(split: str = "train", **fields: Any) -> Spoil:
    def change(content: Content) -> None:
        image = next(i for i in content["images"] if i["id"] == content["annotations"][0]["image_id"])
        size = [image["height"], image["width"]]
        content["annotations"][0]["segmentation"] = {"size": size, "counts": [size[0] * size[1]], **fields}

    return edited(change, split)


def categories(*names: Any) -> Spoil:
    def change(content: Content) -> None:
        for category, name in zip(content["categories"], names):
            category["name"] = name

    return edited(change)


def mixed(content: Content) -> None:
    """The first image and what is in it go by text, as the others do not."""
    content["images"][0]["id"] = str(content["images"][0]["id"])
    for annotation in content["annotations"]:
        if str(annotation["image_id"]) == content["images"][0]["id"]:
            annotation["image_id"] = content["images"][0]["id"]


def normalized(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation |= {"bbox": [0.25, 0.25, 0.5, 0.5], "segmentation": [[0.25, 0.25, 0.75, 0.25, 0.75, 0.75]]}


def with_keypoints(value: Any, split: str = "train") -> Spoil:
    """A set that has keypoints, in its file alone; the first annotation's are ``value``."""

    def change(content: Content) -> None:
        for category in content["categories"]:
            category["keypoints"] = ["left tip", "right tip"]
        for annotation in content["annotations"]:
            x, y, _, _ = annotation["bbox"]
            annotation["keypoints"] = [x + 1, y + 1, 2, x + 2, y + 2, 1]

    def spoil(place: Place) -> list[object]:
        for name in ("train", "val"):
            place.edit(change, name)
        place.edit(lambda content: content["annotations"][0].update(keypoints=value), split)
        keys = {"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 2, "MODEL.MASK_ON": False}
        keys["TEST.KEYPOINT_OKS_SIGMAS"] = "[0.1, 0.1]"
        return [word for pair in keys.items() for word in pair]

    return spoil


def without_annotations(*words: object) -> Spoil:
    return edited(lambda content: content.pop("annotations"), "val", *words)


def folder_as_file(place: Place) -> None:
    place.annotations().unlink()
    place.annotations().mkdir()


def pipe(place: Place) -> None:
    place.annotations().unlink()
    os.mkfifo(place.annotations())


def without_pixels(content: Content, number: int | None = None) -> None:
    sizes = {image["id"]: [image["height"], image["width"]] for image in content["images"]}
    for annotation in content["annotations"][:number]:
        height, width = sizes[annotation["image_id"]]
        annotation |= {"segmentation": {"size": [height, width], "counts": [height * width]}, "iscrowd": 0}


def elsewhere(content: Content) -> None:
    """The first mask is the last pixel of its image, or the first."""
    annotation = content["annotations"][0]
    without_pixels(content, 1)
    height, width = annotation["segmentation"]["size"]
    is_left, number = annotation["bbox"][0] > width / 2, height * width - 1
    annotation["segmentation"]["counts"] = [0, 1, number] if is_left else [number, 1]


def own_voc(place: Place) -> list[object]:
    from detectron2.data import MetadataCatalog

    metadata = MetadataCatalog.get("voc_2007_val")
    folder = place.root / "VOC2007"
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main" / "val.txt").write_text("a\n")
    (folder / "Annotations" / "a.xml").write_text("<annotation><object><name>nut</name></object></annotation>")
    object.__setattr__(metadata, "dirname", os.fspath(folder))
    return ["DATASETS.TRAIN", "('voc_2007_val',)", "MODEL.MASK_ON", False]


AP_NEEDS = "no annotation that is not a crowd, which the config needs (1): TEST."


def listed_twice(content: Content) -> None:
    image = content["images"][0]
    content["images"].insert(0, {**image, "id": 10**6, "width": image["width"] + 9})


CASES = (
    Case("an image listed twice, once with another size", edited(listed_twice), "image has another size than its"),
    Case("a polygon with NaN", polygon(float("nan"), 1), "polygon has a coordinate that is not a number"),
    Case("a polygon with null", polygon(None, 1), "polygon has a coordinate that is not a number"),
    Case("a polygon with text", polygon("12", 1), "polygon has a coordinate that is not a number"),
    Case("a polygon that reaches 10^9", polygon(1e9, 1), "polygon reaches far outside its image"),
    Case("a polygon that reaches 10^9 in the test set", polygon(1e9, 1, split="val"), "polygon reaches far outside"),
    Case("a polygon elsewhere", first(segmentation=[[900, 1, 950, 1, 950, 9]]), "polygon outside its image"),
    Case("a polygon of points", first(segmentation=[[[1, 1], [5, 1], [5, 5]]]), "polygon is a list of points [[x, y]"),
    Case(
        "points without a polygon", first("val", segmentation=[[1, 1], [5, 1], [5, 5]]), "polygon is a list of points"
    ),
    Case("RLE in Python's print", runs(counts="b'abc'"), "Python's print of bytes"),
    Case("RLE of garbage", runs(counts="zzzzzz"), "RLE counts do not add up"),
    Case("RLE of garbage in the test set", runs("val", counts="zzzzzz"), "RLE counts do not add up"),
    Case("RLE of another size", runs(size=[7, 7], counts=[49]), "RLE does not fit the size of its image"),
    Case("RLE of size 64", runs(size=64), "RLE size is not [height, width]"),
    Case("RLE of size true", runs("val", size=True), "RLE size is not [height, width]"),
    Case("crowds alone", all_of(iscrowd=1), "nothing can be learned from the annotations (1): crowd, which"),
    Case("iscrowd null", all_of(iscrowd=None), "iscrowd is neither 0 nor 1"),
    Case("iscrowd in quotes", all_of(split="val", iscrowd="0"), "iscrowd is neither 0 nor 1"),
    Case("area in quotes", first("val", area="512"), "area is not a number of at least 0"),
    Case("area NaN", first("val", area=float("nan")), "area is not a number of at least 0"),
    Case("file_name 7", all_of("images", file_name=7), "file_name is not text"),
    Case("width in quotes", all_of("images", width="96"), "width is not a positive whole number"),
    Case("category names that are numbers", categories(0, 1), "category name is not text"),
    Case("the same category name twice", categories("x", "x"), "category name is not unique"),
    Case("ids of two types", edited(mixed), "partly numbers and partly text"),
    Case("boxes and polygons in shares of 1", edited(normalized), "looks normalized"),
    Case("a box of 10^400", first(bbox=[1, 1, 5, 10**400]), "box is not four numbers"),
    Case("keypoints of letters", first(keypoints="zz"), "keypoints are not a list of numbers"),
    Case("keypoints too short", with_keypoints([1, 1, 2]), "keypoints are not x, y and visibility of each of the 2"),
    Case("keypoints without visibility", with_keypoints([1, 1, 2, 2]), "not a multiple of 3"),
    Case("keypoints null", with_keypoints(None), "no keypoints, which MODEL.KEYPOINT_ON needs"),
    Case("keypoints null in the test set", with_keypoints(None, "val"), "no keypoints, which MODEL.KEYPOINT_ON needs"),
    Case("keypoints nested", with_keypoints([[1, 1, 2], [2, 2, 2]]), "keypoints are not a list of numbers"),
    Case("keypoints far outside", with_keypoints([9e5, 1, 2, 2, 2, 2]), "keypoint outside its image"),
    Case("deep nesting", rewritten(lambda _: b'{"images": ' + b"[" * 10**5), "nested too deeply"),
    Case(
        "a file of UTF-16 that is cut", rewritten(lambda t: t.decode().encode("utf-16")[:999]), "is not text in utf-16"
    ),
    Case("a compressed file", rewritten(gzip.compress), "is compressed by gzip: unpack it"),
    Case("an empty file", rewritten(lambda _: b""), "instances_train.json is empty"),
    Case("a list", rewritten(lambda text: b"[" + text + b"]"), "is not an object with images"),
    Case("a folder as annotation file", folder_as_file, "is a folder"),
    Case(
        "a file as image folder", lambda p: (shutil.rmtree(p.root / "val"), (p.root / "val").touch())[2:], "is a file"
    ),
    Case("no annotations for losses", without_annotations("TEST.LOSS", True), AP_NEEDS + "LOSS"),
    Case(
        "no annotations for the best metric",
        without_annotations("TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 2, "TEST.PATIENCE", 1),
        AP_NEEDS + "BEST_METRIC, TEST.PATIENCE",
    ),
    Case(
        "an image outside its folder",
        edited(outside, "train", "--check"),
        "image lies outside the folder of images (1): '../",
        0,
    ),
    Case("a crowd", edited(lambda c: c["annotations"][0].update(iscrowd=1), "train", "--check"), "crowd, which tra", 0),
    Case("a pipe as annotation file", pipe, "is a pipe"),
    Case(
        "boxes of no area alone", all_of(bbox=[5, 5, 0, 0], iscrowd=0), "learned from the annotations (1): box of no ar"
    ),
    Case("empty masks alone", edited(without_pixels), "learned from the annotations (1): mask of no area"),
    Case("one empty mask", edited(lambda c: without_pixels(c, 1), "train", "--check"), "mask of no area (", 0),
    Case("RLE elsewhere", edited(elsewhere), "mask (RLE) outside its box (1)"),
    Case("category_id in quotes", first(category_id="1"), "(write 1 in place of '1')"),
    Case("a file_name with NUL", all_of("images", file_name="a\0\x1b[2J.jpg"), r"a\x00\x1b[2J.jpg"),
    Case(
        "file_name is a folder",
        lambda p: p.edit(lambda c: c["images"][0].update(file_name=".")),
        "(it is a folder, not",
    ),
    Case("a VOC set of other classes", own_voc, "python tools/prepare.py voc FOLDER --name NAME"),
)
