"""The demo and the tools of pictures with a model for semantic segmentation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image

from fpt_d2.config_file import read_config
from fpt_d2.engine.inference import build_predictor, get_inference_config
from fpt_d2.modeling.sem_seg import SemanticSegmentorWithTTA, SlidingWindow
from tests.semantic import CONFIG, write_semantic

NAME = "demo_masks"
WINDOW = ["TEST.SLIDING_WINDOW.ENABLED", "True", "TEST.SLIDING_WINDOW.SIZE", "(40, 36)"]
WINDOW += ["TEST.SLIDING_WINDOW.STRIDE", "(16, 16)"]
TTA = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(40, 64)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    """A config whose OUTPUT_DIR holds a checkpoint, and its test set."""
    folder = tmp_path_factory.mktemp("semantic")
    datasets = {"TEST": [NAME], "REGISTER_SEM_SEG": [[NAME, *write_semantic(folder)]]}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "DATASETS": datasets, "OUTPUT_DIR": str(folder)}))
    torch.manual_seed(0)
    model = build_model(read_config(str(path)))
    torch.nn.init.normal_(model.sem_seg_head.predictor.weight)
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    yield folder
    DatasetCatalog.pop(NAME, None)  # a test may have run alone in its process, without one that registers it
    MetadataCatalog.pop(NAME, None)


@pytest.mark.parametrize("opts", [[], WINDOW, TTA, WINDOW + TTA], ids=["plain", "window", "tta", "both"])
def test_the_demo_draws_classes_in_their_colors(demo, folder: Path, opts: list[str], tmp_path: Path) -> None:
    image = folder / "images" / "0.png"
    config_file = str(folder / "config.yaml")
    argv = ["--config-file", config_file, "--input", str(image), "--output", str(tmp_path / "drawn.png")]
    assert demo.main([*argv, "--opts", *opts]) == 0
    drawn = np.array(Image.open(tmp_path / "drawn.png").convert("RGB")).astype(float)
    original = np.array(Image.open(image))
    assert drawn.shape == original.shape
    predictor = build_predictor(get_inference_config(config_file, opts))
    classes = predictor(np.ascontiguousarray(original[:, :, ::-1]))["sem_seg"].argmax(dim=0).numpy()
    colors = np.array(MetadataCatalog.get(NAME).stuff_colors, dtype=float)
    assert len(np.unique(classes)) > 1
    # What is drawn lies nearer to the colors of the predicted classes than to those of any others.
    distances = [np.abs(drawn - colors[(classes + shift) % 3]).mean() for shift in range(3)]
    assert np.argmin(distances) == 0


def test_the_predictor_is_what_the_keys_ask_for(folder: Path) -> None:
    config_file = str(folder / "config.yaml")

    def model(*opts: str) -> torch.nn.Module:
        return build_predictor(get_inference_config(config_file, opts)).model

    assert isinstance(model(*WINDOW), SlidingWindow)
    augmented = model(*WINDOW, *TTA)
    assert isinstance(augmented, SemanticSegmentorWithTTA) and isinstance(augmented.model, SlidingWindow)
    assert not any(isinstance(m, SlidingWindow) for m in model(*TTA).modules())


def test_the_predictor_and_the_evaluation_augment_alike(folder: Path) -> None:
    from detectron2.data import build_detection_test_loader

    from fpt_d2.engine.inference import tta_config, with_tta

    cfg = get_inference_config(str(folder / "config.yaml"), TTA)
    predictor = build_predictor(cfg)
    from fpt_d2.data import register_from_config

    register_from_config(cfg)
    batch = next(iter(build_detection_test_loader(tta_config(cfg), NAME)))
    with torch.no_grad():
        output = with_tta(cfg, predictor.model.model)(batch)[0]["sem_seg"]
    image = np.array(Image.open(batch[0]["file_name"]))[:, :, ::-1]
    torch.testing.assert_close(predictor(np.ascontiguousarray(image))["sem_seg"], output)


def test_predictions_beside_ground_truth(folder: Path, tmp_path: Path) -> None:
    tool = Path(__file__).parents[2] / "tools" / "visualize_predictions.py"
    spec = importlib.util.spec_from_file_location("visualize_predictions", tool)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    picture = tmp_path / "grid.png"
    argv = ["--config-file", str(folder / "config.yaml"), "--output", str(picture), "--num-images", "3"]
    with pytest.raises(SystemExit, match="is not the whole of this model.*sem_seg_head.predictor"):
        module.main([*argv, "--opts", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "9"])
    assert module.main([*argv, "--opts", *WINDOW]) == 0
    drawn = np.array(Image.open(picture).convert("RGB"))
    assert drawn.shape[0] > 2 * 200 and drawn.std() > 20


def test_a_trunks_weights_are_no_trained_model(folder: Path, tmp_path: Path) -> None:
    opts = ["MODEL.WEIGHTS", "detectron2://DeepLab/R-52.pkl"]
    with pytest.raises(ValueError, match="no trained model"):
        get_inference_config(str(folder / "config.yaml"), opts)
