"""A tiny trained-looking model, its files, and the demo as a user's command line reaches it."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from fpt_d2.config_file import read_config

CONFIG = """
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  DEVICE: cpu
  MASK_ON: True
  BACKBONE: {NAME: build_resnet_fpt_backbone}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5]}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16}
  FPT: {BRANCH_CHANNELS: 16}
  ANCHOR_GENERATOR: {SIZES: [[8], [16], [32], [64], [128]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], POST_NMS_TOPK_TEST: 20}
  ROI_HEADS: {NAME: StandardROIHeads, IN_FEATURES: [p2, p3, p4, p5], NUM_CLASSES: 6}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 16, POOLER_RESOLUTION: 7}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, POOLER_RESOLUTION: 14}
DATASETS: {TEST: []}
INPUT: {MIN_SIZE_TEST: 64, MAX_SIZE_TEST: 96}
TEST: {DETECTIONS_PER_IMAGE: 5}
OUTPUT_DIR: %s
VERSION: 2
"""


@pytest.fixture(scope="session")
def config_file(tmp_path_factory):
    """A config whose OUTPUT_DIR holds a checkpoint, as a training leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    path = folder / "config.yaml"
    path.write_text(CONFIG % folder)
    torch.manual_seed(0)
    model = build_model(read_config(str(path)))
    torch.save({"model": model.state_dict()}, folder / "model_final.pth")
    (folder / "last_checkpoint").write_text("model_final.pth")
    return str(path)


@pytest.fixture(scope="session")
def demo():
    """The module of the demo's command line."""
    from fpt_d2.commands import demo

    return demo


@pytest.fixture
def write_image(tmp_path):
    """Write a noisy image of the given size under the test's folder."""

    def write(name, size=(48, 64)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
        return path

    return write
