"""Mask R-CNN with a ResNet-50, end to end: random weights, random images, ten objects in each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from fpt_d2 import model_zoo

from .kernels import other_paths
from .necks import BUDGET, CHEAP, LIGHT, NECKS, SDPA
from .workload import Entry, Setting, Workload

CASE = "Mask R-CNN R50"
CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_1x.yaml"
NUM_OBJECTS = 10

# Without a branch FPT is Detectron2's FPN.
DETECTORS: dict[str, tuple[Any, ...]] = {
    "FPN": ("MODEL.FPT.BRANCHES", []),
    "FPT budget": BUDGET,
    "FPT budget, summed at stride 8": (*BUDGET, *CHEAP),
    "FPT light": LIGHT,
}
PEERS: dict[str, tuple[Any, ...]] = {name: NECKS[name] for name in ("BFP", "BiFPN")}
DETECTORS_ON_GPU: dict[str, tuple[Any, ...]] = {
    "FPT budget, torch's attention": (*BUDGET, *SDPA),
    "FPT light, torch's attention": (*LIGHT, *SDPA),
}


def detectors(device: str) -> dict[str, tuple[Any, ...]]:
    """The keys of every detector that the device can run, by its name."""
    return DETECTORS | (DETECTORS_ON_GPU if "triton" in other_paths(device) else {})


def entries(device: str) -> list[Entry]:
    names = sorted(PEERS | detectors(device), key=lambda name: name.startswith("FPT"))  # peers first
    return [Entry(CASE, name, partial(_make_detector, name), baseline=("FPN",)) for name in names]


def detector_config(name: str, device: str) -> CfgNode:
    cfg = model_zoo.get_config(CONFIG)
    cfg.merge_from_list(list((PEERS | detectors(device))[name]))
    cfg.MODEL.DEVICE = device
    # Random weights give every class about the same score: with one class it passes the threshold, so that inference
    # ends with as many detections and masks as are allowed.
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    return cfg


def _make_detector(name: str, setting: Setting) -> Workload:
    model = setting.laid_out(build_model(detector_config(name, setting.device)))
    return workload_of(model, [random_input(setting) for _ in range(setting.batch)], setting)


def workload_of(model: nn.Module, inputs: list[dict[str, Any]], setting: Setting) -> Workload:
    """Of a model of Detectron2's: the sum of its losses in training, else its predictions."""

    def run(training: bool) -> list[Tensor]:
        model.train(training)
        with setting.autocast(), EventStorage():
            outputs = model(inputs)
        return [torch.stack(list(outputs.values())).sum()] if training else []

    return Workload(run, list(model.parameters()))


def random_input(setting: Setting) -> dict[str, Any]:
    height, width = setting.height, setting.width
    corner = torch.rand(NUM_OBJECTS, 2) * torch.tensor([width, height]) * 0.5
    boxes = torch.cat((corner, corner + torch.tensor([width, height]) * 0.3), dim=1)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = torch.zeros(NUM_OBJECTS, dtype=torch.int64)
    instances.gt_masks = PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]]] for box in boxes.numpy()])
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}
