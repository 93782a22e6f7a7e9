"""Pictures of training data and of JSON results: that they are there, of the right size, and show what they are of."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import read_image
from PIL import Image
from visualize_data import main as draw_data
from visualize_json_results import main as draw_results

from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.model_zoo import get_config_file
from tests.shapes import bundled_shapes

CONFIGS = {
    kind: get_config_file(f"quick_schedules/{name}_quickstart.yaml")
    for kind, name in [
        ("mask", "mask_rcnn_R_18_FPT"),
        ("keypoint", "keypoint_rcnn_R_18_FPT"),
        ("panoptic", "panoptic_fpt_R_18"),
    ]
}


@pytest.fixture(scope="module", autouse=True)
def shapes(tmp_path_factory: pytest.TempPathFactory):
    """The bundled data sets, small ones, under their own names."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=6, num_val=4, image_size=(64, 80), seed=1, progress=False)
    with bundled_shapes(root):
        yield root


@pytest.mark.parametrize("kind", CONFIGS)
def test_annotations(kind: str, tmp_path: Path) -> None:
    assert draw_data(["--source", "annotation", "--config-file", CONFIGS[kind], "--output", str(tmp_path)]) == 0
    records = DatasetCatalog.get("fpt_shapes_train")
    pictures = sorted(tmp_path.iterdir())
    assert pictures and (kind == "keypoint" or len(pictures) == len(records))
    by_stem = {Path(record["file_name"]).stem: record for record in records}
    for picture in pictures:
        record = by_stem[picture.stem.split("_")[1]]
        drawn = np.asarray(Image.open(picture)).astype(int)
        assert drawn.shape == (record["height"], record["width"], 3)
        if record["annotations"]:
            assert np.abs(drawn - read_image(record["file_name"], "RGB")).mean() > 2


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_data_loader(kind: str, tmp_path: Path) -> None:
    argv = ["--source", "dataloader", "--config-file", CONFIGS[kind], "--output", str(tmp_path), "--num-images", "3"]
    assert draw_data([*argv, "--opts", "INPUT.MIN_SIZE_TRAIN", "(100,)"]) == 0
    pictures = [Image.open(path) for path in tmp_path.iterdir()]
    assert len(pictures) == 3 and {min(picture.size) for picture in pictures} == {100}


@pytest.mark.parametrize(
    ("opts", "sentence"),
    [
        (["DATASETS.TRAIN", "()"], "DATASETS.TRAIN is empty"),
        (["DATASETS.TRAIN", "('fpt_shape_train',)"], "Did you mean fpt_shapes_train"),
        (
            ["DATASETS.TRAIN", "('coco_2014_valminusminival',)", "MODEL.ROI_HEADS.NUM_CLASSES", "80"],
            "instances_valminusminival2014.json does not exist",
        ),
        (["DATASET.TRAIN", "()"], "did you mean DATASETS.TRAIN"),
    ],
)
def test_mistakes_are_one_sentence(opts, sentence, tmp_path: Path) -> None:
    argv = ["--source", "annotation", "--config-file", CONFIGS["mask"], "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        draw_data([*argv, "--opts", *opts])
    assert sentence in str(end.value) and len(str(end.value).splitlines()) == 1 and end.value.code == 2
    assert not (tmp_path / "out").exists()


def without_images(content: dict) -> str:
    return json.dumps(content | {"images": []})


def with_a_category_too_many(content: dict) -> str:
    content["annotations"][0]["category_id"] = 99
    return json.dumps(content)


def cut_short(content: dict) -> str:
    return json.dumps(content)[:500]


@pytest.mark.parametrize("source", ["annotation", "dataloader"])
@pytest.mark.parametrize(
    ("damage", "opts", "sentence"),
    [
        (without_images, [], "top-level key missing or empty (1): images"),
        (with_a_category_too_many, [], "category id is not among the categories"),
        (cut_short, [], "mine.json is not valid JSON (the file ends too early"),
        (json.dumps, ["DATASETS.CHECK", "False"], "000001.jpg cannot be read: "),
    ],
)
def test_broken_data_are_named(source, damage, opts, sentence, shapes: Path, tmp_path: Path) -> None:
    content = json.loads((shapes / "annotations" / "instances_train.json").read_text())
    images = tmp_path / "images"
    shutil.copytree(shapes / "train", images)
    broken = images / "000001.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "mine.json").write_text(damage(content))
    name = f"broken_{source}_{damage.__name__}"
    register = ["DATASETS.REGISTER_COCO", str(((name, str(tmp_path / "mine.json"), str(images)),))]
    argv = ["--source", source, "--config-file", CONFIGS["mask"], "--output", str(tmp_path / "out")]
    try:
        with pytest.raises(SystemExit) as end:
            draw_data([*argv, "--opts", *register, "DATASETS.TRAIN", f"('{name}',)", *opts])
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert sentence in str(end.value) and end.value.code == 2


def coco_results(root: Path, kind: str) -> list[dict]:
    """The annotations as if they had been predicted."""
    content = json.loads((root / "annotations" / f"{kind}_val.json").read_text())
    keys = ("image_id", "category_id", "bbox", "segmentation", "keypoints")
    found = [{key: a[key] for key in keys if key in a} for a in content["annotations"] if not a["iscrowd"]]
    return [record | {"score": 0.9} for record in found]


@pytest.mark.parametrize("kind", ["instances", "keypoints"])
def test_results_beside_the_ground_truth(kind: str, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(coco_results(shapes, kind)))
    name = "fpt_shapes_keypoints_val" if kind == "keypoints" else "fpt_shapes_val"
    out = tmp_path / "drawn"
    assert draw_results(["--input", str(tmp_path / "results.json"), "--output", str(out), "--dataset", name]) == 0
    pictures = sorted(out.iterdir())
    assert pictures
    for record in DatasetCatalog.get(name):
        picture = out / f"{Path(record['file_name']).stem}.jpg"
        if picture in pictures:
            left, right = np.split(np.asarray(Image.open(picture)).astype(int), 2, axis=1)
            image = read_image(record["file_name"], "RGB").astype(int)
            assert np.abs(left - image).mean() > 2 and np.abs(right - image).mean() > 2


def test_results_below_the_threshold_are_left_out(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(coco_results(shapes, "instances")))
    argv = ["--input", str(tmp_path / "results.json"), "--output", str(tmp_path), "--conf-threshold", "0.95"]
    assert draw_results([*argv, "--config-file", CONFIGS["mask"]]) == 0
    record = DatasetCatalog.get("fpt_shapes_val")[0]
    picture = np.asarray(Image.open(tmp_path / f"{Path(record['file_name']).stem}.jpg")).astype(int)
    image = read_image(record["file_name"], "RGB")
    left, right = (np.abs(half - image).mean() for half in np.split(picture, 2, axis=1))
    assert left < right / 2  # not zero, for JPEG


@pytest.mark.parametrize(
    ("content", "argv", "sentence"),
    [
        ("[]", [], "No data set is given"),
        ("[]", ["--dataset", "fpt_shapes_vla"], "Did you mean fpt_shapes_val"),
        ("[]", ["--dataset", "coco_2014_minival"], "instances_minival2014.json does not exist"),
        ("[]", ["--dataset", "fpt_shapes_val"], "is an empty list: the model found nothing"),
        (
            '[{"image_id": 999, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]',
            ["--dataset", "fpt_shapes_val"],
            "No image of 'fpt_shapes_val' is in",
        ),
        (
            '[{"image_id": [1], "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1}]',
            ["--dataset", "fpt_shapes_val"],
            'and one is {"image_id": [1]',
        ),
        (
            '[{"image_id": 1, "category_id": 1, "bbox": "0, 0, 9, 9", "score": "1"}]',
            ["--dataset", "fpt_shapes_val"],
            "a box of 4 numbers",
        ),
        ("{", ["--dataset", "fpt_shapes_val"], "is not valid JSON"),
        ('{"annotations": []}', ["--dataset", "fpt_shapes_val"], "is not in COCO's results format"),
        (
            '[{"image_id": 1, "category_id": 90, "bbox": [0, 0, 9, 9], "score": 1}]',
            ["--dataset", "fpt_shapes_val"],
            "category 90, which 'fpt_shapes_val' does not have",
        ),
        (None, ["--dataset", "fpt_shapes_val"], "No such file"),
    ],
)
def test_wrong_results_are_one_sentence(content, argv, sentence, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(SystemExit) as end:
        draw_results(["--input", str(tmp_path / "results.json"), "--output", str(tmp_path / "out"), *argv])
    assert sentence in str(end.value) and len(str(end.value).splitlines()) == 1 and end.value.code == 2


RLE = {"size": [72, 98], "counts": [7056]}  # of the first image
RESULTS = [
    ({"bbox": [0, 0, 9, float("nan")]}, "box is not four numbers"),
    ({"bbox": [0, 0, 9, 10**400]}, "box is not four numbers"),
    ({"bbox": [1e30, 0, 9, 9]}, "far outside the image"),
    ({"bbox": [True, 0, 9, 9]}, "box is not four numbers"),
    ({"score": 10**400}, "a number as score"),
    ({"score": float("nan")}, "a number as score"),
    ({"score": True}, "a number as score"),
    ({"image_id": True}, "image_id is neither a whole number nor text"),
    ({"segmentation": "x"}, "segmentation is neither polygons nor RLE"),
    ({"segmentation": [[5, 9, 5, 9, 9, 1, 2]]}, "polygon with an odd number of coordinates"),
    ({"segmentation": [[1, 1, 1e9, 1, 9, 9]]}, "far outside the image"),
    ({"segmentation": {**RLE, "size": [8, 640]}}, "RLE does not fit the size of its image"),
    ({"segmentation": {**RLE, "size": [2**31, 2**31]}}, "RLE size is not [height, width]"),
    ({"segmentation": {**RLE, "counts": "zzzzz"}}, "RLE counts do not add up to the pixels"),
    ({"segmentation": {**RLE, "counts": "b'abc'"}}, "Python's print of bytes"),
    ({"segmentation": {**RLE, "counts": None}}, "RLE counts are neither text nor numbers"),
    ({"segmentation": {"counts": "abc"}}, "record without size"),
    ({"keypoints": [1, 2]}, "keypoints are not x, y and a score of each"),
    ({"keypoints": "abc"}, "keypoints are not a list of numbers"),
    ({"keypoints": ["a", "b", "c"]}, "keypoints are not a list of numbers"),
]


@pytest.mark.parametrize(("fields", "sentence"), RESULTS, ids=[f"{i}: {s}" for i, (_, s) in enumerate(RESULTS)])
def test_results_that_cannot_be_drawn_are_one_sentence(fields, sentence, shapes: Path, tmp_path: Path) -> None:
    record = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 1, **fields}
    file, out = tmp_path / "results.json", tmp_path / "out"
    file.write_text(json.dumps([record]))
    with pytest.raises(SystemExit) as end:
        draw_results(["--input", str(file), "--output", str(out), "--dataset", "fpt_shapes_val"])
    assert sentence in str(end.value) and len(str(end.value).splitlines()) == 1 and end.value.code == 2
    assert not out.exists()


def test_results_with_one_meaning_are_drawn(shapes: Path, tmp_path: Path) -> None:
    record = {"image_id": 1.0, "category_id": 1.0, "bbox": [0, 0, 9, 9], "score": 1, "segmentation": None}
    (tmp_path / "results.json").write_text(json.dumps([record | {"keypoints": None}]))
    argv = ["--input", str(tmp_path / "results.json"), "--output", str(tmp_path / "out")]
    assert draw_results([*argv, "--dataset", "fpt_shapes_val"]) == 0


def test_a_pipe_or_deep_nesting_as_results(shapes: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "deep.json").write_text("[" * 10**5)
    for name, sentence in (("pipe", "it is a pipe, not a file"), ("deep", "nested too deeply")):
        argv = ["--input", str(tmp_path / f"{name}.json"), "--output", str(tmp_path), "--dataset", "fpt_shapes_val"]
        with pytest.raises(SystemExit, match=sentence):
            draw_results(argv)


def test_an_image_that_cannot_be_read_is_named(shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(coco_results(shapes, "instances")))
    image = Path(DatasetCatalog.get("fpt_shapes_val")[0]["file_name"])
    content = image.read_bytes()
    image.write_bytes(content[:200])
    argv = ["--input", str(tmp_path / "results.json"), "--output", str(tmp_path), "--dataset", "fpt_shapes_val"]
    try:
        with pytest.raises(SystemExit, match=f"{image.name} cannot be read: ") as end:
            draw_results(argv)
    finally:
        image.write_bytes(content)
    assert end.value.code == 2


@pytest.fixture
def two_folders(shapes: Path, tmp_path: Path):
    """A data set in which two images have one name, and results on it."""
    content = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    for image, folder in zip(content["images"], ("a", "b", "c", "d")):
        (tmp_path / "images" / folder).mkdir(parents=True)
        shutil.copy(shapes / "val" / image["file_name"], tmp_path / "images" / folder / "1.jpg")
        image["file_name"] = f"{folder}/1.jpg"
    (tmp_path / "mine.json").write_text(json.dumps(content))
    register_coco_instances("two_folders", {}, str(tmp_path / "mine.json"), str(tmp_path / "images"))
    (tmp_path / "results.json").write_text(json.dumps(coco_results(shapes, "instances")))
    yield ["--input", str(tmp_path / "results.json"), "--dataset", "two_folders", "--output"]
    DatasetCatalog.remove("two_folders")
    MetadataCatalog.remove("two_folders")


def test_images_of_one_name_get_a_picture_each(two_folders: list[str], tmp_path: Path) -> None:
    assert draw_results([*two_folders, str(tmp_path / "drawn")]) == 0
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a_1.jpg", "b_1.jpg", "c_1.jpg", "d_1.jpg"]


def test_images_of_the_data_set_are_not_replaced(two_folders: list[str], tmp_path: Path) -> None:
    before = (tmp_path / "images" / "a" / "1.jpg").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "images" / "a")
    for output in (tmp_path / "images" / "a", tmp_path / "link"):
        with pytest.raises(SystemExit, match="holds images of the data set") as end:
            draw_results([*two_folders, str(output)])
        assert end.value.code == 2 and [path.name for path in output.iterdir()] == ["1.jpg"]
    assert (tmp_path / "images" / "a" / "1.jpg").read_bytes() == before
