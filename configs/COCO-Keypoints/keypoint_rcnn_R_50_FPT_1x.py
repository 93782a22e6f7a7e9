"""keypoint_rcnn_R_50_FPT_1x.yaml as a lazy config."""

from detectron2.model_zoo import get_config

from ..common.coco_1x import lr_multiplier, optimizer, train  # noqa: F401
from ..common.fpt import use_fpt

dataloader = get_config("common/data/coco_keypoint.py").dataloader
model = get_config("common/models/keypoint_rcnn_fpn.py").model
model.backbone.bottom_up.freeze_at = 2
use_fpt(model)
