"""The demo and tools/visualize_predictions.py with a data set of the user's own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fpt_d2.data.synthetic.classes import CATEGORIES
from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.engine.inference import class_metadata, get_inference_config

TOOL = Path(__file__).parents[2] / "tools" / "visualize_predictions.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("visualize_predictions", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """The options that register a small data set and make it the test set."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=1, num_val=9, image_size=(64, 96), progress=False)
    entry = ("demo_own_data", str(root / "annotations" / "instances_val.json"), str(root / "val"))
    return ["DATASETS.REGISTER_COCO", str((entry,)), "DATASETS.TEST", "('demo_own_data',)"]


def test_grid_of_a_test_set(tool, config_file, own_data, tmp_path):
    picture = tmp_path / "new" / "grid.png"
    argv = ["--config-file", config_file, "--output", str(picture), "--confidence-threshold", "0"]
    assert tool.main([*argv, "--opts", *own_data]) == 0
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    # Eight images, two in a row, each with its ground truth.
    assert drawn.shape[0] > 4 * 200 and drawn.shape[1] > 4 * 300 and drawn.std() > 20
    ninth = tmp_path / "one.png"
    assert (
        tool.main(["--config-file", config_file, "--output", str(ninth), "--num-images", "1", "--opts", *own_data]) == 0
    )
    assert np.asarray(Image.open(ninth)).shape[0] < drawn.shape[0] / 3


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["DATASETS.TEST", "('no_such_set',)"], "no_such_set"),
        (["DATASETS.TEST", "()"], "DATASETS.TEST"),
        (["DATASETS.REGISTER_COCO", "(('gone','gone.json','gone'),)", "DATASETS.TEST", "('gone',)"], "gone.json"),
        (["MODEL.WEIGHTS", ""], "no trained model"),
    ],
)
def test_a_grid_without_data_or_weights_is_one_sentence(tool, config_file, tmp_path, opts, message):
    with pytest.raises(SystemExit, match=message):
        tool.main(["--config-file", config_file, "--output", str(tmp_path / "grid.png"), "--opts", *opts])


@pytest.mark.parametrize(
    "argv", [["--num-images", "0"], ["--num-images", "-1"], ["--output", "x.xyz"], ["--output", "."]]
)
def test_what_cannot_be_drawn_is_said_first(tool, argv, capsys):
    with pytest.raises(SystemExit):
        tool.main(["--config-file", "nowhere.yaml", "--output", "grid.png", *argv])
    assert f"argument {argv[0]}" in capsys.readouterr().err


def test_categories_have_the_names_of_the_users_data(demo, config_file, own_data):
    metadata = class_metadata(get_inference_config(config_file, own_data))
    assert tuple(metadata.thing_classes) == tuple(CATEGORIES)


def test_categories_are_numbered_where_the_data_are_not_at_hand(demo, config_file, caplog):
    opts = ["DATASETS.REGISTER_COCO", "(('gone','gone.json','gone'),)", "DATASETS.TEST", "('gone',)"]
    metadata = class_metadata(get_inference_config(config_file, opts))
    assert metadata.thing_classes[:2] == ["0", "1"] and "gone.json" in caplog.text
