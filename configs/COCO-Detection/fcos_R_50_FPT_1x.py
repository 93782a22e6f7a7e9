"""Detectron2's fcos_R_50_FPN_1x.py with FPT in the place of FPN. FCOS is there as a lazy config only."""

from detectron2.model_zoo import get_config

from ..common.coco_1x import dataloader, lr_multiplier, optimizer, train  # noqa: F401
from ..common.fpt import use_fpt

model = get_config("common/models/fcos.py").model
model.backbone.bottom_up.freeze_at = 2
use_fpt(model, range(3, 6))

dataloader.train.mapper.use_instance_mask = False
optimizer.lr = 0.01
