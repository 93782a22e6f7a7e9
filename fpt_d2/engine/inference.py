"""The configuration of a trained model, as the demo and the tools that only predict need it."""

import logging
from collections.abc import Sequence
from typing import Optional

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from fpt_d2.checkpoint import find_weights, read_weights

from .defaults import read_config

logger = logging.getLogger(__name__)


def get_inference_config(config_file: str, opts: Sequence[str] = (), *, min_score: Optional[float] = 0.5) -> CfgNode:
    """Build the config of a trained model, with its weights found.

    The weights are those given in ``opts``, else the last checkpoint in ``OUTPUT_DIR``, else those of the file.

    Args:
        config_file: a YAML file.
        opts: ``KEY VALUE`` pairs that override it.
        min_score: instances below this score are not predicted. None leaves that to the config.

    Returns:
        The config, frozen.

    Raises:
        ValueError: no such file, an unknown key or a wrong value, no such weights or ones that are unsafe to read, or
            weights that no detector was trained to.
    """
    cfg = read_config(config_file, opts)
    if "MODEL.WEIGHTS" not in opts[::2]:
        cfg.MODEL.WEIGHTS = _last_checkpoint(cfg.OUTPUT_DIR) or cfg.MODEL.WEIGHTS
    _check_weights(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logger.warning("There is no GPU for MODEL.DEVICE %s: predicting on the CPU", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    if min_score is not None:
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = min_score
        cfg.MODEL.RETINANET.SCORE_THRESH_TEST = min_score
        cfg.MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH = min_score
    cfg.freeze()
    return cfg


def _last_checkpoint(folder: str) -> str:
    """The newest checkpoint of a training, "" when there is none."""
    checkpointer = DetectionCheckpointer(nn.Module(), folder)
    return checkpointer.get_checkpoint_file() if checkpointer.has_checkpoint() else ""


def _check_weights(cfg: CfgNode) -> None:
    weights = cfg.MODEL.WEIGHTS
    if not weights or "ImageNetPretrained" in weights:
        raise ValueError(
            f"There is no trained model in {cfg.OUTPUT_DIR} and MODEL.WEIGHTS is {weights!r}: "
            "train first, or give a trained detector as MODEL.WEIGHTS path/to/model_final.pth"
        )
    # Detectron2's predictor would execute what a pickle holds: a file that is more than weights ends here.
    read_weights(find_weights(weights))
