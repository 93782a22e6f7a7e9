"""panoptic_fpt_R_50_1x.yaml as a lazy config."""

from detectron2.model_zoo import get_config

from ..common.coco_1x import lr_multiplier, optimizer, train  # noqa: F401
from ..common.fpt import use_fpt

dataloader = get_config("common/data/coco_panoptic_separated.py").dataloader
model = get_config("common/models/panoptic_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
use_fpt(model)
