import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fpt_d2.data.synthetic import scene as scene_module
from fpt_d2.data.synthetic import write_shapes as write_shapes_module
from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.data.synthetic.coco_format import coco_annotation
from fpt_d2.data.synthetic.outlines import OUTLINES
from fpt_d2.data.synthetic.scene import SUPERSAMPLING, SceneObject
from fpt_d2.data.synthetic.write_shapes import nth_shapes_scene, write_shapes

SMALL = {"image_size": (64, 80), "progress": False}


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module", params=["train", "val"])
def coco(shapes_root, request) -> COCO:
    return COCO(shapes_root / "annotations" / f"instances_{request.param}.json")


def test_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in [("first", 7), ("second", 7), ("other", 8)]:
        write_shapes(tmp_path / name, num_train=4, num_val=2, seed=seed, **SMALL)
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    other = digests(tmp_path / "other")
    assert all(other[name] != digest for name, digest in digests(tmp_path / "first").items())


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    write_shapes(tmp_path / "few", num_train=3, num_val=2, seed=7, **SMALL)
    write_shapes(tmp_path / "many", num_train=6, num_val=5, seed=7, **SMALL)
    few, many = digests(tmp_path / "few"), digests(tmp_path / "many")
    images = [name for name in few if not name.endswith(".json")]
    assert len(images) == 3 * 5 and all(few[name] == many[name] for name in images)
    for split, number in [("train", 3), ("val", 2)]:
        few_json, many_json = (
            json.loads((tmp_path / name / "annotations" / f"instances_{split}.json").read_text())
            for name in ("few", "many")
        )
        ids = {image["id"] for image in few_json["images"]}
        assert few_json["images"] == many_json["images"][:number]
        assert few_json["annotations"] == [a for a in many_json["annotations"] if a["image_id"] in ids]
    last_first = [nth_shapes_scene(7, "train", index, (64, 80))[0] for index in (2, 1, 0)]
    first_last = [nth_shapes_scene(7, "train", index, (64, 80))[0] for index in (0, 1, 2)]
    assert all(np.array_equal(a, b) for a, b in zip(last_first[::-1], first_last))


def test_splits_differ():
    train, val = (nth_shapes_scene(0, split, 0)[0] for split in ("train", "val"))
    assert train.shape != val.shape or not np.array_equal(train, val)


def test_everything_of_coco_is_there(shapes_root, coco):
    content = coco.dataset
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    assert [c["name"] for c in content["categories"]] == list(CATEGORIES)
    assert all(c["supercategory"] for c in content["categories"])
    if len(content["images"]) < 36:
        return
    annotations = content["annotations"]
    assert {a["category_id"] for a in annotations if not a["iscrowd"]} == set(range(1, len(CATEGORIES) + 1))
    rles = [a for a in annotations if isinstance(a["segmentation"], dict)]
    assert {(a["iscrowd"], type(a["segmentation"]["counts"])) for a in rles} == {(0, str), (1, list)}
    assert len(rles) < len(annotations)  # the others are polygons
    assert any(not coco.imgToAnns[image["id"]] for image in content["images"])
    assert {Path(image["file_name"]).suffix for image in content["images"]} == {".jpg", ".png"}
    wide = {image["width"] > image["height"] for image in content["images"]}
    assert wide == {True, False}


def test_images_have_the_stated_sizes(shapes_root, coco):
    split = "train" if len(coco.imgs) == 36 else "val"
    for image in coco.dataset["images"]:
        with Image.open(shapes_root / split / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"])
            assert opened.mode == "RGB"
        assert 64 <= min(image["width"], image["height"]) <= 112


def test_masks_decode_to_the_stated_area_and_box(coco):
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["area"] == mask.sum() > 0
        assert annotation["bbox"] == box


def test_masks_are_the_visible_part(coco):
    """No pixel inside belongs to two objects, whichever of polygons and RLE they are written in."""
    for image_id in coco.imgs:
        masks = [coco.annToMask(annotation) for annotation in coco.imgToAnns[image_id]]
        if masks:
            twice = (np.sum(masks, axis=0) > 1).astype(np.uint8)
            # Two outlines may both claim the pixels of their common border, hardly a pixel wide.
            assert not any(twice[y : y + 3, x : x + 3].all() for y, x in zip(*np.nonzero(twice)))


@pytest.mark.parametrize("index", range(12))
def test_annotations_follow_the_drawing(index):
    """Nowhere is a mask more than a pixel away from what is drawn."""
    pixels, objects, _ = nth_shapes_scene(1, "train", index, (96, 128))
    height, width = pixels.shape[:2]
    for scene_object in objects:
        annotation = coco_annotation(scene_object, height, width)
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
        elif annotation["iscrowd"]:
            segmentation = mask_util.frPyObjects(segmentation, height, width)
        mask = mask_util.decode(segmentation)
        drawn = scene_object.visible.reshape(height, SUPERSAMPLING, width, SUPERSAMPLING).mean(axis=(1, 3)) >= 0.5
        drawn = drawn.astype(np.uint8)
        square = np.ones((3, 3), dtype=np.uint8)
        assert np.all(cv2.erode(drawn, square) <= mask) and np.all(mask <= cv2.dilate(drawn, square))
        assert annotation["category_id"] == scene_object.category + 1


def test_hardly_anything_is_hidden():
    for index in range(30):
        for scene_object in nth_shapes_scene(0, "val", index)[1]:
            assert np.count_nonzero(scene_object.visible) >= scene_module.MIN_VISIBLE_SHARE * scene_object.area


def test_scales_reach_from_small_to_most_of_the_image():
    diameters = []
    for index in range(80):
        pixels, objects, _ = nth_shapes_scene(0, "train", index)
        boxes = [coco_annotation(o, *pixels.shape[:2])["bbox"] for o in objects if not o.iscrowd]
        diameters += [(max(box[2:]), max(box[2:]) / min(pixels.shape[:2])) for box in boxes]
    pixel_sizes, shares = np.array(diameters).T
    assert pixel_sizes.min() < 14 and shares.max() > 0.75
    assert np.mean(pixel_sizes < 10) < 0.05


def test_a_ring_keeps_its_hole():
    contours = scene_module.place_outline(CATEGORIES.index("ring"), np.array([40.0, 30.0]), 20.0, 0.3)
    mask, area = scene_module.fill_contours(contours, 60, 80)
    annotation = coco_annotation(SceneObject(CATEGORIES.index("ring"), [mask], mask, area), 60, 80)
    decoded = mask_util.decode(annotation["segmentation"])
    assert decoded[30, 40] == 0 and decoded[30, 40 + 16] == 1
    exact = np.pi * 20**2 * (1 - 0.55**2)
    assert annotation["area"] == pytest.approx(exact, rel=0.05)  # OpenCV fills the border too
    assert area / SUPERSAMPLING**2 == pytest.approx(exact, rel=0.01)


def test_shapes_stay_inside_the_unit_circle():
    for contours in OUTLINES.values():
        assert all(np.linalg.norm(contour, axis=1).max() <= 1 + 1e-9 for contour in contours)


def test_an_existing_data_set_is_replaced_only_when_asked(tmp_path):
    root = tmp_path / "shapes"
    write_shapes(root, num_train=1, num_val=1, **SMALL)
    before = digests(root)
    with pytest.raises(FileExistsError, match="overwrite"):
        write_shapes(root, num_train=2, num_val=1, **SMALL)
    assert digests(root) == before
    write_shapes(root, num_train=2, num_val=1, overwrite=True, **SMALL)
    assert len(list((root / "train").iterdir())) == 2
    assert os.listdir(tmp_path) == ["shapes"]


def test_another_folder_is_never_deleted(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a data set of this kind"):
        write_shapes(tmp_path, num_train=1, num_val=1, overwrite=True, **SMALL)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(rng, height, width, **kwargs):
        if len(list(tmp_path.rglob("*.jpg"))) == 2:
            raise KeyboardInterrupt
        return scene_module.draw_scene(rng, height, width, **kwargs)

    monkeypatch.setattr(write_shapes_module, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_shapes(tmp_path / "shapes", num_train=3, num_val=3, **SMALL)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"num_train": 0}, "num_train and num_val must be at least 1"),
        ({"image_size": (128, 96)}, "image_size"),
        ({"image_size": (8, 96)}, "image_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        write_shapes(tmp_path / "shapes", **arguments)
    assert os.listdir(tmp_path) == []


COMMAND_LINE = """
import runpy, sys
from detectron2.data import DatasetCatalog
from fpt_d2.data import DatasetError

try:
    DatasetCatalog.get("fpt_shapes_train")
except DatasetError as error:
    print(error)
for _ in range(2):
    sys.argv = ["generate_shapes.py", "--num-train", "3", "--num-val", "2", "--max-size", "100"]
    try:
        runpy.run_path("tools/generate_shapes.py", run_name="__main__")
    except SystemExit as exit:
        print("exit status", exit.code)
print(*(len(DatasetCatalog.get(f"fpt_shapes_{split}")) for split in ("train", "val")))
"""


def test_command_line_writes_where_the_registered_data_set_is_read(tmp_path):
    repository = Path(__file__).parents[2]
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", COMMAND_LINE]
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    missing, wrote, first, second, counts = run.stdout.splitlines()
    assert missing.startswith("The data set 'fpt_shapes_train' is not in")
    assert "python tools/generate_shapes.py" in missing
    assert str(tmp_path) in wrote
    assert (first, second, counts) == ("exit status 0", "exit status 2", "3 2")
    assert "--overwrite" in run.stderr and "Traceback" not in run.stderr
