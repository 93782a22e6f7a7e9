"""What the demo draws of each kind of output, on images and in videos, and which weights it refuses."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from fpt_d2.commands.drawing.predictor import VisualizationDemo
from fpt_d2.config_file import read_config
from fpt_d2.engine.inference import build_predictor, get_inference_config

METADATA = Metadata(name="demo", thing_classes=["circle", "star"], stuff_classes=["sky", "grass"])
IMAGE = np.full((40, 60, 3), 128, np.uint8)


def _instances():
    instances = Instances((40, 60))
    instances.pred_boxes = Boxes(torch.tensor([[5.0, 5.0, 30.0, 35.0]]))
    instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([1])
    return {"instances": instances}


def _sem_seg():
    scores = torch.zeros(2, 40, 60)
    scores[0, :20], scores[1, 20:] = 1, 1
    return {"sem_seg": scores}


def _panoptic_seg():
    segments = torch.ones(40, 60, dtype=torch.int32)
    segments[20:] = 2
    infos = [{"id": 1, "isthing": False, "category_id": 0}, {"id": 2, "isthing": True, "category_id": 1}]
    return {"panoptic_seg": (segments, infos)}


class _Model(VisualizationDemo):
    """One whose output is known."""

    def __init__(self, outputs):
        self.metadata, self.predictor = METADATA, lambda image: outputs


@pytest.mark.parametrize("outputs", [_instances, _sem_seg, _panoptic_seg])
def test_every_kind_of_output_is_drawn(outputs):
    _, picture = _Model(outputs()).run_on_image(IMAGE)
    assert picture.shape == IMAGE.shape and (picture != IMAGE).any()


def test_objects_of_a_class_have_a_color_in_all_frames():
    frames = iter([(True, IMAGE), (True, IMAGE), (False, None)])
    pictures = list(_Model(_instances()).run_on_video(SimpleNamespace(read=lambda: next(frames))))
    assert len(pictures) == 2 and (pictures[0] == pictures[1]).all() and (pictures[0] != IMAGE).any()


def test_an_output_that_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="proposals"):
        _Model({"proposals": None}).run_on_image(IMAGE)


def _weights(folder, config_file, *opts, keep=""):
    """A checkpoint of the model that these keys make of the config, or of the part of it that begins with ``keep``."""
    weights = build_model(read_config(config_file, opts)).state_dict()
    path = folder / "weights.pth"
    torch.save({"model": {name: w for name, w in weights.items() if name.startswith(keep)}}, path)
    return path


@pytest.mark.parametrize(
    ("opts", "keep", "said"),
    [
        (["MODEL.RESNETS.DEPTH", "34"], "", "has a ResNet-34, the model a ResNet-18"),
        (["MODEL.FPN.OUT_CHANNELS", "32"], "", "The neck in .* has the width 32, the model's 16"),
        (["MODEL.RESNETS.NORM", "GN"], "", "set MODEL.RESNETS.NORM"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "9"], "", r"cls_score.weight \(10, 16\) in the file, \(7, 16\) in the model"),
        ([], "backbone.", "is not the whole of this model.*it lacks .*roi_heads.box_head 2"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(demo, config_file, write_image, tmp_path, opts, keep, said):
    weights = _weights(tmp_path, config_file, *opts, keep=keep)
    argv = ["--config-file", config_file, "--input", str(write_image("a.png")), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=said) as end:
        demo.main([*argv, "--opts", "MODEL.WEIGHTS", str(weights)])
    assert "\n" not in str(end.value)


def test_a_pickle_is_refused_where_the_config_says_so(demo, config_file, write_image, tmp_path):
    weights = torch.load(_weights(tmp_path, config_file), weights_only=True)["model"]
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"model": {n: w.numpy() for n, w in weights.items()}, "__author__": "me"}))
    argv = ["--config-file", config_file, "--input", str(write_image("a.png")), "--output", str(tmp_path / "a.jpg")]
    argv += ["--opts", "MODEL.WEIGHTS", str(path)]
    with pytest.raises(SystemExit, match="a pickle, or nothing known, and MODEL.WEIGHTS_ALLOW_PICKLE is False"):
        demo.main([*argv, "MODEL.WEIGHTS_ALLOW_PICKLE", "False"])
    assert demo.main(argv) == 0


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "ProposalNetwork"])  # the latter does not know its format
def test_the_demo_warns_of_the_order_of_channels(name, config_file, tmp_path, caplog):
    opts = ["MODEL.META_ARCHITECTURE", name]
    _weights(tmp_path, config_file, *opts).rename(tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(read_config(config_file, opts).dump())  # as training leaves it
    opts += ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    build_predictor(get_inference_config(config_file, opts))
    assert "INPUT.FORMAT" not in caplog.text and "from scratch" not in caplog.text
    build_predictor(get_inference_config(config_file, [*opts, "INPUT.FORMAT", "RGB"]))
    assert "Set INPUT.FORMAT BGR: the model has INPUT.FORMAT RGB" in caplog.text


def test_the_predictor_has_the_weights(config_file):
    predictor = build_predictor(get_inference_config(config_file))
    saved = torch.load(config_file.replace("config.yaml", "model_final.pth"), weights_only=True)["model"]
    assert not predictor.model.training
    assert all(torch.equal(weight, saved[name]) for name, weight in predictor.model.state_dict().items())
