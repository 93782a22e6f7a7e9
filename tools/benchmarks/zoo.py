"""One training step of any config of the model zoo: random weights, random images, ten objects in each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from detectron2.structures import Keypoints
from omegaconf import DictConfig
from torch import nn

from fpt_d2 import model_zoo

from .detectors import workload_of
from .training import input_with_bitmaps
from .workload import Entry, Setting, Workload

CASE = "model zoo"


def entry(file: str) -> Entry:
    """What ``benchmarks.measure`` runs for a config, named as :func:`fpt_d2.model_zoo.get_config` names it."""
    return Entry(CASE, file, partial(_make, file))


def _make(file: str, setting: Setting) -> Workload:
    model = _model(file)
    return workload_of(model, [_labelled_image(model, setting) for _ in range(setting.batch)], setting)


def _model(file: str) -> nn.Module:
    cfg = model_zoo.get_config(file)
    if isinstance(cfg, DictConfig):
        return instantiate(cfg.model)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TRUNK.PRETRAINED", False])
    return build_model(cfg)


def _labelled_image(model: nn.Module, setting: Setting) -> dict[str, Any]:
    """With boxes, masks, keypoints and semantic labels: every model takes those that it has a head for."""
    data = input_with_bitmaps(setting)
    data["sem_seg"] = torch.zeros(setting.height, setting.width, dtype=torch.int64)
    head = getattr(getattr(model, "roi_heads", None), "keypoint_head", None)
    if head is not None:
        centers = data["instances"].gt_boxes.get_centers()
        seen = torch.cat((centers, torch.full((len(centers), 1), 2.0)), dim=1)
        data["instances"].gt_keypoints = Keypoints(seen[:, None].repeat(1, head.num_keypoints, 1))
    return data
