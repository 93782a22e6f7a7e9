"""cascade_rcnn_R_50_FPT_1x.yaml as a lazy config."""

from detectron2.model_zoo import get_config

from ..common.coco_1x import dataloader, lr_multiplier, optimizer, train  # noqa: F401
from ..common.fpt import use_fpt

model = get_config("common/models/cascade_rcnn.py").model
model.backbone.bottom_up.freeze_at = 2
use_fpt(model)
model.proposal_generator.post_nms_topk = (2000, 1000)
for part in ("mask_in_features", "mask_pooler", "mask_head"):
    model.roi_heads.pop(part)

dataloader.train.mapper.use_instance_mask = False
