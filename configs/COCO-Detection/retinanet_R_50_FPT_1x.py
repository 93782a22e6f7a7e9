"""retinanet_R_50_FPT_1x.yaml as a lazy config."""

from detectron2.model_zoo import get_config

from ..common.coco_1x import dataloader, lr_multiplier, optimizer, train  # noqa: F401
from ..common.fpt import use_fpt

model = get_config("common/models/retinanet.py").model
model.backbone.bottom_up.freeze_at = 2
use_fpt(model, range(3, 6))

dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 0.01
