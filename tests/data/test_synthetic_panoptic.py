"""Keypoints and panoptic segments of the shapes agree with the instances and with what is drawn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fpt_d2.data.synthetic.classes import CATEGORIES, KEYPOINT_CATEGORY, KEYPOINT_FLIP_MAP, KEYPOINTS, PATTERNS
from fpt_d2.data.synthetic.coco_format import coco_keypoints
from fpt_d2.data.synthetic.scene import SUPERSAMPLING, SceneObject, fill_contours, place_outline

STAR = CATEGORIES.index(KEYPOINT_CATEGORY)


def star(center: tuple[float, float], radius: float = 20.0, angle: float = 0.0) -> SceneObject:
    contours = place_outline(STAR, np.array(center), radius, angle)
    mask, area = fill_contours(contours, 80, 100)
    return SceneObject(STAR, [mask], mask, area, contours[0])


def test_tips_are_named_by_where_they_are():
    found = coco_keypoints(star((50.0, 40.0)), 80, 100)
    points = dict(zip(KEYPOINTS, np.reshape(found["keypoints"], (-1, 3))))
    assert found["num_keypoints"] == 5 and all(point[2] == 2 for point in points.values())
    # the center of the first pixel is 0
    np.testing.assert_allclose(points["top"][:2], (49.5, 19.5), atol=0.01)
    for right, left in KEYPOINT_FLIP_MAP:
        assert points[left][0] < 49 and points[right][0] > 50
        np.testing.assert_allclose(points[left][:2] * (-1, 1) + (99, 0), points[right][:2], atol=0.01)
    assert points["upper_left"][1] < points["lower_left"][1]


def test_a_hidden_tip_and_one_beyond_the_border():
    covered = star((50.0, 10.0))
    covered.visible = covered.visible.copy()
    covered.visible[:, : 40 * SUPERSAMPLING] = False
    points = dict(zip(KEYPOINTS, np.reshape(coco_keypoints(covered, 80, 100)["keypoints"], (-1, 3))))
    assert points["top"].tolist() == [0, 0, 0]
    assert {name: point[2] for name, point in points.items() if name != "top"} == {
        "upper_right": 2,
        "lower_right": 2,
        "lower_left": 1,
        "upper_left": 1,
    }
    assert coco_keypoints(covered, 80, 100)["num_keypoints"] == 4


@pytest.mark.parametrize("split", ["train", "val"])
def test_keypoints_are_those_of_all_stars(shapes_root, split):
    instances = COCO(shapes_root / "annotations" / f"instances_{split}.json")
    keypoints = COCO(shapes_root / "annotations" / f"keypoints_{split}.json")
    (category,) = keypoints.dataset["categories"]
    assert category["name"] == KEYPOINT_CATEGORY and category["keypoints"] == list(KEYPOINTS)
    assert keypoints.dataset["images"] == instances.dataset["images"]
    assert set(keypoints.anns) == {a["id"] for a in instances.anns.values() if a["category_id"] == STAR + 1}
    for annotation in keypoints.anns.values():
        same = instances.anns[annotation["id"]]
        assert annotation["category_id"] == category["id"]
        assert all(annotation[key] == same[key] for key in ("image_id", "bbox", "segmentation", "area", "iscrowd"))
        assert len(annotation["keypoints"]) == 15
        assert annotation["num_keypoints"] == np.count_nonzero(annotation["keypoints"][2::3])
        x, y, width, height = annotation["bbox"]
        for px, py, visibility in np.reshape(annotation["keypoints"], (-1, 3)):
            if visibility == 2:
                # A tip's end is thinner than half a pixel, and so outside the mask.
                assert x - 3 <= px <= x + width + 2 and y - 3 <= py <= y + height + 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_segments_are_the_instances_and_one_background(shapes_root, split):
    instances = COCO(shapes_root / "annotations" / f"instances_{split}.json")
    content = json.loads((shapes_root / "annotations" / f"panoptic_{split}.json").read_text())
    categories = {category["id"]: category for category in content["categories"]}
    assert [c["name"] for c in content["categories"]] == [*CATEGORIES, *PATTERNS]
    assert [a["image_id"] for a in content["annotations"]] == [image["id"] for image in instances.dataset["images"]]
    for annotation in content["annotations"]:
        with Image.open(shapes_root / f"panoptic_{split}" / annotation["file_name"]) as image:
            ids = np.array(image, dtype=np.int64) @ (1, 256, 256**2)
        with Image.open(shapes_root / f"panoptic_stuff_{split}" / annotation["file_name"]) as image:
            labels = np.array(image)
        segments = annotation["segments_info"]
        assert set(np.unique(ids)) == {segment["id"] for segment in segments}  # no pixel is void
        for segment in segments:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["area"] == mask.sum() and segment["bbox"] == box
            category = categories[segment["category_id"]]
            label = 0 if category["isthing"] else 1 + PATTERNS.index(category["name"])
            assert np.all(labels[mask] == label)
        (background,) = (s for s in segments if not categories[s["category_id"]]["isthing"])
        objects = instances.imgToAnns[annotation["image_id"]]
        things = [s for s in segments if s is not background]
        assert [(s["category_id"], s["iscrowd"]) for s in things] == [(a["category_id"], a["iscrowd"]) for a in objects]
        for segment, instance in zip(things, objects):
            mask, truth = ids == segment["id"], instances.annToMask(instance).astype(bool)
            # Polygons reach up to half a pixel farther than the mask: much, of a small shape.
            assert (mask & truth).sum() >= 0.75 * (mask | truth).sum()


def test_every_background_is_there(shapes_root):
    content = json.loads((shapes_root / "annotations" / "panoptic_train.json").read_text())
    stuff = {s["category_id"] for a in content["annotations"] for s in a["segments_info"]} - set(range(1, 7))
    assert stuff == {7, 8, 9, 10}


REGISTERED = """
from detectron2.data import DatasetCatalog, MetadataCatalog
import fpt_d2.data
for split, number in (("train", 36), ("val", 12)):
    for kind in ("", "keypoints_", "panoptic_"):
        name = f"fpt_shapes_{kind}{split}"
        assert len(DatasetCatalog.get(name)) == number, name
    metadata = MetadataCatalog.get(name)
    for record in DatasetCatalog.get(name):
        from PIL import Image
        with Image.open(record["sem_seg_file_name"]) as image:
            assert image.size == (record["width"], record["height"])
    assert len(metadata.stuff_classes) == 5 and metadata.stuff_classes[0] == "things"
    stuff = metadata.stuff_dataset_id_to_contiguous_id
    assert stuff == {0: 0, 7: 1, 8: 2, 9: 3, 10: 4}
stars = [a for r in DatasetCatalog.get("fpt_shapes_keypoints_train") for a in r["annotations"]]
assert stars and all(len(a["keypoints"]) == 15 and a["category_id"] == 0 for a in stars)
"""


def test_all_are_registered(shapes_root, tmp_path):
    (tmp_path / "fpt_shapes").symlink_to(shapes_root)
    repository = Path(__file__).parents[2]
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(repository)}
    subprocess.run([sys.executable, "-c", REGISTERED], env=environment, check=True)
