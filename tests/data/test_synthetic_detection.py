"""The scenes for detection in context: right annotations, and classes that nothing near an object tells apart."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from fpt_d2.data.synthetic.classes import CATEGORIES, CONTEXT_DETECTION
from fpt_d2.data.synthetic.coco_format import context_categories
from fpt_d2.data.synthetic.context_detection import MIN_DISTANCE
from fpt_d2.data.synthetic.scene import Scene, SceneObject
from fpt_d2.data.synthetic.write_context_detection import nth_detection_scene, write_context_detection
from fpt_d2.errors import DatasetError

DIFFICULTIES = list(CONTEXT_DETECTION)
SMALL = {"image_size": (64, 64), "progress": False}
NUM_SCENES = 200
CUES, CONTEXT = (2, 3), (4, 5)  # categories, in each difficulty


def scene_of(difficulty: str, index: int, split: str = "val", **options: Any) -> Scene:
    return nth_detection_scene(0, difficulty, split, index, (64, 64), **options)


def is_easy(difficulty: str, scene: Scene) -> bool:
    """Whether no comparison is needed: all stars are alike, or all small shapes squares."""
    if difficulty == "matching":
        return len({o.category for o in scene.objects if o.category in CUES}) == 1
    return all(outline_of(o) == "square" for o in scene.objects if o.category in CONTEXT)


def box_of(scene_object: SceneObject) -> np.ndarray:
    """x1, y1, x2, y2 in image pixels."""
    rows, columns = np.nonzero(scene_object.visible)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 4


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between two boxes."""
    gap = np.maximum(np.maximum(first[:2] - second[2:], second[:2] - first[2:]), 0)
    return float(np.hypot(*gap))


@pytest.fixture(scope="module", params=DIFFICULTIES)
def difficulty(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def scenes(difficulty: str) -> list[Scene]:
    return [scene_of(difficulty, index) for index in range(NUM_SCENES)]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes(difficulty: str, tmp_path: Path) -> None:
    for name, seed, num_train in [("first", 7, 3), ("second", 7, 3), ("more", 7, 5), ("other", 8, 3)]:
        write_context_detection(tmp_path / name, difficulty, num_train=num_train, num_val=2, seed=seed, **SMALL)
    first, more, other = (files(tmp_path / name) for name in ("first", "more", "other"))
    assert first == files(tmp_path / "second")
    images = {name: content for name, content in first.items() if name.endswith(".jpg")}
    assert len(images) == 3 + 2 and len(first) == 3 + 2 + 2
    assert images.items() <= more.items()
    assert all(other[name] != content for name, content in first.items())


def test_difficulties_and_splits_share_no_scene() -> None:
    seen = {
        nth_detection_scene(0, difficulty, split, 0, (64, 64)).pixels.tobytes()
        for difficulty in DIFFICULTIES
        for split in ("train", "val")
    }
    assert len(seen) == 6


def test_annotations_are_those_of_the_scene(difficulty: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_context_detection(root, difficulty, num_train=4, num_val=1, **SMALL)
    coco = COCO(root / "annotations" / "instances_train.json")
    assert coco.dataset["categories"] == context_categories(difficulty)
    assert coco.dataset["info"]["description"].endswith(difficulty)
    for index, image in enumerate(coco.dataset["images"]):
        scene = scene_of(difficulty, index, "train")
        with Image.open(root / "train" / image["file_name"]) as opened:
            assert opened.size == (image["width"], image["height"]) == scene.pixels.shape[1::-1]
        annotations = coco.imgToAnns[image["id"]]
        assert [a["category_id"] - 1 for a in annotations] == [o.category for o in scene.objects]
        for annotation, scene_object in zip(annotations, scene.objects):
            x, y, width, height = annotation["bbox"]
            np.testing.assert_allclose([x, y, x + width, y + height], box_of(scene_object), atol=2)  # thin tips
            assert annotation["area"] == coco.annToMask(annotation).sum() > 0


@pytest.mark.parametrize("index", range(10))
def test_the_other_cue_changes_classes_and_no_pixel_near_them(difficulty: str, index: int) -> None:
    scene, other = scene_of(difficulty, index), scene_of(difficulty, index, exchanged=True)
    short = min(scene.pixels.shape[:2])
    changed = np.any(scene.pixels != other.pixels, axis=2)
    assert changed.any()
    decided = 0
    for scene_object, other_object in zip(scene.objects, other.objects, strict=True):
        category, other_category = scene_object.category, other_object.category
        if category in CONTEXT:
            decided += 1
            assert {category, other_category} == set(CONTEXT)
            x1, y1, x2, y2 = box_of(scene_object)
            rows, columns = np.nonzero(changed)
            gaps = np.maximum(np.maximum(x1 - columns - 1, columns - x2), np.maximum(y1 - rows - 1, rows - y2))
            assert gaps.min() >= (MIN_DISTANCE - 0.1) * short  # 0.1: the cue's shadow
        elif category in CUES:
            assert {category, other_category} == set(CUES)
        else:
            assert category == other_category
        if category not in CUES:
            np.testing.assert_array_equal(scene_object.visible, other_object.visible)
    assert decided


def test_cues_are_far_from_what_they_decide(scenes: list[Scene]) -> None:
    for scene in scenes[:100]:
        boxes = {kind: [box_of(o) for o in scene.objects if o.category in kind] for kind in (CUES, CONTEXT)}
        short = min(scene.pixels.shape[:2])
        assert min(distance(a, b) for a in boxes[CUES] for b in boxes[CONTEXT]) >= MIN_DISTANCE * short - 1


def test_no_object_touches_another(scenes: list[Scene]) -> None:
    for scene in scenes[:50]:
        assert np.sum([o.visible for o in scene.objects], axis=0).max() == 1


def outline_of(scene_object: SceneObject) -> str:
    """Square or cross, by the share of its box that it fills; these are turned by 0.3 at most."""
    box = box_of(scene_object)
    return "square" if scene_object.area / 16 > 0.62 * np.prod(box[2:] - box[:2]) else "cross"


def mean_color(scene: Scene, scene_object: SceneObject) -> np.ndarray:
    """Of the pixels wholly inside, its brightest channel being 1: hue and saturation, (3,)."""
    height, width = scene.pixels.shape[:2]
    inside = scene_object.visible.reshape(height, 4, width, 4).all(axis=(1, 3))
    color = np.median(scene.pixels[inside], axis=0)
    return color / color.max()


def told_by_the_rule(difficulty: str, scene: Scene, scene_object: SceneObject) -> int:
    """The class of an object as the definition of the difficulty says, from what can be seen."""
    cues = [o for o in scene.objects if o.category in CUES]
    if difficulty == "presence":
        return cues[0].category + 2
    if difficulty == "relation":
        return CONTEXT[outline_of(scene_object) != ("square", "cross")[cues[0].category - 2]]
    own = mean_color(scene, scene_object)
    nearest = min(cues, key=lambda cue: float(np.abs(mean_color(scene, cue) - own).sum()))
    return nearest.category + 2


def test_classes_follow_the_rule(difficulty: str, scenes: list[Scene]) -> None:
    right = [
        told_by_the_rule(difficulty, scene, o) == o.category
        for scene in scenes[:100]
        for o in scene.objects
        if o.category in CONTEXT
    ]
    # a star's median color may be that of its dark outline
    assert np.mean(right) > (0.97 if difficulty == "matching" else 0.999)


def test_cues_are_complete_and_look_as_they_are_named(difficulty: str, scenes: list[Scene]) -> None:
    for scene in scenes:
        cues = [o for o in scene.objects if o.category in CUES]
        assert len(cues) == (3 if difficulty == "matching" else 1)
        if difficulty == "matching":
            assert {o.category for o in cues} == set(CUES)
            for cue in cues:
                # the dot is the darkest thing on a star
                x1, y1, x2, y2 = box_of(cue)
                middle = scene.pixels[int((y1 + y2) / 2) + 1, int((x1 + x2) / 2)].max()
                assert (middle < 60) == (cue.category == CUES[1])
        elif difficulty == "relation":
            assert outline_of(cues[0]) == ("square", "cross")[cues[0].category - 2]


def features(difficulty: str, scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What an object and its image say without its cue, (n, k); which class it has and its scene, (n,) each.

    In a relation the large shape's outline is the last column.
    """
    rows, labels, numbers = [], [], []
    for number, scene in enumerate(scenes):
        height, width = scene.pixels.shape[:2]
        counts = np.bincount([o.category for o in scene.objects], minlength=6)
        about_image = [height, width, counts[0], counts[1], counts[4] + counts[5], *scene.pixels.mean(axis=(0, 1))]
        if difficulty == "matching":
            about_image += [counts[2]]  # how many stars are plain
        elif difficulty == "relation":
            about_image += [counts[2]]  # which the large one is
        for scene_object in scene.objects:
            if scene_object.category in CONTEXT:
                x1, y1, x2, y2 = box_of(scene_object)
                is_square = outline_of(scene_object) == "square"
                own = [x1, y1, x2 - x1, y2 - y1, scene_object.area, is_square, *mean_color(scene, scene_object)]
                rows.append([*own, *about_image])
                labels.append(scene_object.category == CONTEXT[1])
                numbers.append(number)
    return np.array(rows, dtype=float), np.array(labels), np.array(numbers)


def test_nothing_but_the_rule_tells_the_class(difficulty: str, scenes: list[Scene]) -> None:
    values, labels, numbers = features(difficulty, scenes)
    # Objects of a scene share their cue: as many coins as scenes were tossed.
    deviation = 0.5 / NUM_SCENES**0.5
    assert abs(labels.mean() - 0.5) < 3 * deviation
    values = (values - values.mean(axis=0)) / np.maximum(values.std(axis=0), 1e-9)
    # Each value by itself, ...
    correlations = np.array([np.corrcoef(column, labels)[0, 1] for column in values.T if column.std() > 0])
    assert np.abs(correlations).max() < 4 * 2 * deviation
    # ... all by a linear classifier, and by the most similar object of other scenes.
    train = numbers < NUM_SCENES // 2
    design = np.column_stack([values, np.ones(len(values))])
    weights = np.linalg.lstsq(design[train], 2.0 * labels[train] - 1, rcond=None)[0]
    assert abs(np.mean((design[~train] @ weights > 0) == labels[~train]) - 0.5) < 3 * 2**0.5 * deviation
    if difficulty == "relation":
        values = values[:, :-1]
    distances = np.linalg.norm(values[:, None] - values[None], axis=2)
    distances[numbers[:, None] == numbers[None]] = np.inf
    assert abs(np.mean(labels[distances.argmin(axis=1)] == labels) - 0.5) < 3 * deviation


@pytest.mark.parametrize("difficulty, share", [("matching", 1 / 2), ("relation", 3 / 4)])
def test_many_training_images_are_easy_and_no_other(difficulty: str, share: float) -> None:
    """By chance a relation that is not easy looks so: one in four, eight or sixteen of them."""
    in_train, in_val = (
        [is_easy(difficulty, scene_of(difficulty, index, split)) for index in range(NUM_SCENES)]
        for split in ("train", "val")
    )
    by_chance = 0.0 if difficulty == "matching" else (1 / 4 + 1 / 8 + 1 / 16) / 3
    assert np.mean(in_val) == pytest.approx(by_chance, abs=0.08)
    assert np.mean(in_train) == pytest.approx(share + (1 - share) * by_chance, abs=0.1)


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_classes_of_training_images_follow_the_rule_too(difficulty: str) -> None:
    right, first = [], []
    for index in range(NUM_SCENES):
        scene = scene_of(difficulty, index, "train")
        for scene_object in scene.objects:
            if scene_object.category in CONTEXT:
                right.append(told_by_the_rule(difficulty, scene, scene_object) == scene_object.category)
                first.append(scene_object.category == CONTEXT[0])
    assert np.mean(right) > (0.97 if difficulty == "matching" else 0.999)
    assert abs(np.mean(first) - 0.5) < 3 * 0.5 / NUM_SCENES**0.5


def test_neither_half_of_a_relation_tells_the_class() -> None:
    counts: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for index in range(NUM_SCENES):
        scene = scene_of("relation", index)
        (cue,) = (o for o in scene.objects if o.category in CUES)
        for scene_object in scene.objects:
            if scene_object.category in CONTEXT:
                for fact in (("own", outline_of(scene_object)), ("large", cue.category)):
                    counts[fact].append(scene_object.category == CONTEXT[0])
    assert len(counts) == 4
    assert all(abs(np.mean(same) - 0.5) < 0.15 for same in counts.values())


def test_is_registered_with_its_context_classes(difficulty: str, tmp_path: Path, catalogs: None) -> None:
    name = f"fpt_context_{difficulty}_train"
    metadata = MetadataCatalog.get(name)
    ordinary, context = CONTEXT_DETECTION[difficulty]
    assert metadata.thing_classes == [*ordinary, *context] and metadata.context_classes == list(context)
    assert metadata.evaluator_type == "coco"
    assert {"circle", "triangle"} <= set(CATEGORIES) & set(ordinary)


COMMAND_LINE = """
import runpy, sys
from detectron2.data import DatasetCatalog
from fpt_d2.data import DatasetError

try:
    DatasetCatalog.get("fpt_context_matching_train")
except DatasetError as error:
    print(error)
for options in (
    ["--num-train", "2", "--num-val", "1", "--max-size", "96"],
    ["--difficulty", "matching"],
    ["--output", "x"],
    ["--task", "detection", "--difficulty", "matching"],
):
    sys.argv = ["generate_shapes.py", "--task", "context-detection", *options]
    try:
        runpy.run_path("tools/generate_shapes.py", run_name="__main__")
    except SystemExit as exit:
        print("exit status", exit.code)
print(runpy.run_path("tools/generate_shapes.py")["DIFFICULTIES"])
for difficulty in ("presence", "matching", "relation"):
    print(*(len(DatasetCatalog.get(f"fpt_context_{difficulty}_{split}")) for split in ("train", "val")))
"""


def test_command_line_writes_where_the_registered_data_sets_are_read(tmp_path: Path) -> None:
    repository = Path(__file__).parents[2]
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", COMMAND_LINE]
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    missing, *rest = run.stdout.splitlines()
    assert "python tools/generate_shapes.py --task context-detection" in missing
    assert [line.rpartition("/")[2] for line in rest[:3]] == [f"fpt_context_{name}" for name in DIFFICULTIES]
    statuses = [f"exit status {status}" for status in (0, 2, 2, 2)]
    assert rest[3:] == [*statuses, str(tuple(DIFFICULTIES)), "2 1", "2 1", "2 1"]
    for words in ("--overwrite", "say which with --difficulty", "--difficulty is not for --task detection"):
        assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_a_data_set_of_another_difficulty_is_not_replaced(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_context_detection(root, "presence", num_train=1, num_val=1, **SMALL)
    with pytest.raises(FileExistsError, match="of this kind"):
        write_context_detection(root, "matching", num_train=1, num_val=1, overwrite=True, **SMALL)
    write_context_detection(root, "presence", num_train=2, num_val=1, overwrite=True, **SMALL)
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert len(content["images"]) == 2


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"difficulty": "distance"}, "presence, matching, relation, not 'distance'"),
        ({"num_val": 0}, "at least 1"),
        ({"seed": -1}, "seed"),
        ({"image_size": (32, 64)}, "64 <= min"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        write_context_detection(tmp_path / "data", **{"difficulty": "matching"} | arguments)
    assert os.listdir(tmp_path) == []
