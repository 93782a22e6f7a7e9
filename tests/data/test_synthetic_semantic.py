"""The scenes for semantic segmentation: right labels, and classes that nothing near a square tells apart."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from fpt_d2.data.labels import IGNORE_LABEL
from fpt_d2.data.synthetic import context_scene
from fpt_d2.data.synthetic import write_context as write_context_module
from fpt_d2.data.synthetic.classes import CONTEXT_CLASSES
from fpt_d2.data.synthetic.context_scene import CLASSES, MIN_DISTANCE, SQUARE_CLASSES
from fpt_d2.data.synthetic.write_context import nth_context_scene, write_context
from fpt_d2.engine import read_config

KEY = [CLASSES.index("star"), CLASSES.index("cross")]
SQUARES = [CLASSES.index(name) for name in SQUARE_CLASSES]
NUM_SCENES = 400
CONFIGS = Path(__file__).parents[2] / "configs" / "quick_schedules"


class Square(NamedTuple):
    """What can be seen of a square: where it is, how large, in what color."""

    label: int
    scene: int
    position: tuple[float, float]
    area: float
    color: np.ndarray


def squares_of(index: int) -> list[Square]:
    pixels, labels = nth_context_scene(0, "train", index)
    squares = []
    for label in SQUARES:
        count, components, stats, centers = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8))
        for i in range(1, count):
            color = pixels[components == i].mean(axis=0)
            squares.append(Square(label, index, tuple(centers[i]), stats[i, cv2.CC_STAT_AREA], color))
    return squares


@pytest.fixture(scope="module")
def squares() -> list[Square]:
    return [square for index in range(NUM_SCENES) for square in squares_of(index)]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed, num_train in [("first", 7, 3), ("second", 7, 3), ("more", 7, 5), ("other", 8, 3)]:
        write_context(tmp_path / name, num_train=num_train, num_val=2, seed=seed, progress=False)
    first, more, other = (files(tmp_path / name) for name in ("first", "more", "other"))
    assert first == files(tmp_path / "second")
    assert len(first) == 2 * (3 + 2) + 1
    assert first.items() <= more.items()
    assert all(other[name] != content for name, content in first.items())


def test_splits_differ():
    assert not np.array_equal(nth_context_scene(0, "train", 0)[0], nth_context_scene(0, "val", 0)[0])


def test_label_images_have_the_stated_form(tmp_path):
    write_context(tmp_path / "context", num_train=8, num_val=1, progress=False)
    seen = set()
    for path in sorted((tmp_path / "context" / "labels" / "train").iterdir()):
        with Image.open(path) as label, Image.open(tmp_path / f"context/images/train/{path.stem}.jpg") as image:
            assert label.mode == "L" and image.mode == "RGB"
            assert label.size == image.size == (context_scene.WIDTH, context_scene.HEIGHT)
            seen |= set(np.unique(label).tolist())
    assert seen == {*range(len(CLASSES)), IGNORE_LABEL}
    info = json.loads((tmp_path / "context" / "info.json").read_text())
    assert info["classes"] == list(CLASSES) and info["ignore_label"] == IGNORE_LABEL
    assert len(set(CONTEXT_CLASSES.values())) == len(CLASSES)


def test_only_outlines_are_ignored():
    labels = nth_context_scene(0, "train", 1)[1]
    ignored = labels == IGNORE_LABEL
    # an outline is thin: nothing is left of it where a pixel's eight neighbors must be of it too
    assert ignored.any() and not cv2.erode(ignored.astype(np.uint8), np.ones((3, 3), np.uint8)).any()
    # and no shape touches another
    for label in range(1, len(CLASSES)):
        beside = cv2.dilate((labels == label).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert set(np.unique(labels[beside])) <= {0, label, IGNORE_LABEL}


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("index", range(15))
def test_another_key_changes_the_class_of_the_squares_and_nothing_near_them(index, split):
    pixels, labels = nth_context_scene(0, split, index)
    other_pixels, other_labels = nth_context_scene(0, split, index, exchanged=True)
    (key,) = set(KEY) & set(np.unique(labels))
    (other_key,) = set(KEY) - {key}
    changed = np.nonzero(np.any(pixels != other_pixels, axis=2).any(axis=0))[0]
    far = np.ones(pixels.shape[1], dtype=bool)
    far[changed] = False
    expected = labels.copy()
    expected[labels == SQUARES[KEY.index(key)]] = SQUARES[KEY.index(other_key)]
    np.testing.assert_array_equal(other_labels[:, far], expected[:, far])
    assert set(KEY) & set(np.unique(other_labels)) == {other_key}
    assert np.isin(labels[:, ~far], [key, *SQUARES]).any()
    columns = np.nonzero(np.isin(labels, SQUARES).any(axis=0))[0]
    assert changed.size > 0 and columns.size > 0
    # but for the shadow of the key
    assert np.abs(changed[:, None] - columns[None]).min() >= MIN_DISTANCE - context_scene._MARGIN


def test_the_key_tells_the_class_in_half_of_the_scenes_each(squares):
    keys = []
    for index in range(NUM_SCENES):
        present = set(np.unique(nth_context_scene(0, "train", index)[1]))
        (key,) = set(KEY) & present
        assert set(SQUARES) & present == {SQUARES[KEY.index(key)]}
        keys.append(KEY.index(key))
    # three standard deviations of tossing a coin
    assert abs(np.mean(keys) - 0.5) < 1.5 / NUM_SCENES**0.5


def nearest_neighbor_accuracy(features: np.ndarray, squares: list[Square]) -> float:
    """How many squares have the label of the one in another scene with the most similar features (n, k)."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    scenes, labels = np.array([s.scene for s in squares]), np.array([s.label for s in squares])
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    distances[scenes[:, None] == scenes[None]] = np.inf
    return float(np.mean(labels[distances.argmin(axis=1)] == labels))


def test_looks_place_and_size_do_not_tell_the_class(squares):
    near = np.array([[*s.color, *s.position, s.area] for s in squares])
    for columns in (slice(0, 3), slice(3, 5), slice(5, 6), slice(None)):
        # three standard deviations of guessing, once for each scene: its squares are all of one class
        assert abs(nearest_neighbor_accuracy(near[:, columns], squares) - 0.5) < 1.5 / NUM_SCENES**0.5


def test_the_quick_schedules_differ_in_the_branches_alone():
    plain, fpt = (
        read_config(str(CONFIGS / name)) for name in ("ufp_R_50_quickstart.yaml", "ufp_fpt_R_50_quickstart.yaml")
    )
    assert plain.MODEL.FPT.BRANCHES == [] and set(fpt.MODEL.FPT.BRANCHES) == {"st", "gt", "rt"}
    fpt.MODEL.FPT.BRANCHES = []
    for cfg in (plain, fpt):
        cfg.OUTPUT_DIR, cfg.TEST.EXPECTED_RESULTS = "", []
    assert plain == fpt


@pytest.mark.parametrize("config, sees", [("ufp_R_50_quickstart.yaml", False), ("ufp_fpt_R_50_quickstart.yaml", True)])
def test_only_fpt_sees_the_key(config, sees):
    """Of the quick schedules, at random weights: do the squares' logits depend on the key at all?"""
    cfg = read_config(str(CONFIGS / config))
    torch.manual_seed(0)
    model = build_model(cfg).eval().double()
    index = next(i for i in range(9) if np.isin(nth_context_scene(0, "val", i)[1][:, :20], SQUARES).any())
    logits = []
    for exchanged in (False, True):
        pixels, labels = nth_context_scene(0, "val", index, exchanged=exchanged)
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).double()
        with torch.no_grad():
            logits.append(model([{"image": image}])[0]["sem_seg"][:, torch.from_numpy(np.isin(labels, SQUARES))])
    difference = (logits[0] - logits[1]).abs().max() / logits[0].std()
    assert (difference > 1e-6) == sees and (sees or difference < 1e-12), difference


def test_only_a_semantic_data_set_is_replaced(tmp_path):
    root = tmp_path / "context"
    write_context(root, num_train=1, num_val=1, progress=False)
    with pytest.raises(FileExistsError, match="overwrite"):
        write_context(root, num_train=2, num_val=1, progress=False)
    write_context(root, num_train=2, num_val=1, overwrite=True, progress=False)
    assert len(list((root / "labels" / "train").iterdir())) == 2
    (root / write_context_module.INFO_FILE).write_text("{}")
    with pytest.raises(FileExistsError, match="not a data set of this kind"):
        write_context(root, num_train=1, num_val=1, overwrite=True, progress=False)
    assert os.listdir(tmp_path) == ["context"]


@pytest.mark.parametrize("arguments, words", [({"num_val": 0}, "at least 1"), ({"seed": -1}, "seed")])
def test_wrong_arguments_are_named(tmp_path, arguments, words):
    with pytest.raises(ValueError, match=words):
        write_context(tmp_path / "context", **arguments)
    assert os.listdir(tmp_path) == []


COMMAND_LINE = """
import runpy, sys
from detectron2.data import DatasetCatalog, MetadataCatalog
from fpt_d2.data import DatasetError

try:
    DatasetCatalog.get("fpt_context_sem_seg_train")
except DatasetError as error:
    print(error)
for options in (["--num-train", "3", "--num-val", "2"], ["--num-val", "2"], ["--max-size", "100"]):
    sys.argv = ["generate_shapes.py", "--task", "semantic", *options]
    try:
        runpy.run_path("tools/generate_shapes.py", run_name="__main__")
    except SystemExit as exit:
        print("exit status", exit.code)
for split in ("train", "val"):
    name = f"fpt_context_sem_seg_{split}"
    print(len(DatasetCatalog.get(name)), MetadataCatalog.get(name).evaluator_type)
"""


def test_command_line_writes_where_the_registered_data_set_is_read(tmp_path):
    repository = Path(__file__).parents[2]
    environment = os.environ | {"DETECTRON2_DATASETS": str(tmp_path), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", COMMAND_LINE]
    run = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=True)
    missing, wrote, *rest = run.stdout.splitlines()
    assert "python tools/generate_shapes.py --task semantic" in missing
    assert str(tmp_path / "fpt_context") in wrote
    assert rest == ["exit status 0", "exit status 2", "exit status 2", "3 sem_seg", "2 sem_seg"]
    assert "--overwrite" in run.stderr and "--max-size is not for --task semantic" in run.stderr
    assert "Traceback" not in run.stderr
