"""What the demo draws of each kind of output, on images and in videos."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.video_visualizer import VideoVisualizer
from detectron2.utils.visualizer import Visualizer

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


@pytest.mark.parametrize("outputs", [_instances, _sem_seg, _panoptic_seg])
@pytest.mark.parametrize("is_video", [False, True])
def test_every_kind_of_output_is_drawn(demo, outputs, is_video):
    import predictor

    visualizer, frame = (VideoVisualizer(METADATA), [IMAGE]) if is_video else (Visualizer(IMAGE, METADATA), [])
    picture = predictor._draw(outputs(), visualizer, *frame).get_image()
    assert picture.shape == IMAGE.shape and (picture != IMAGE).any()


def test_an_output_that_cannot_be_drawn_is_named(demo):
    import predictor

    with pytest.raises(ValueError, match="proposals"):
        predictor._draw({"proposals": None}, Visualizer(IMAGE, METADATA))
