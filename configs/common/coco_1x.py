"""Detectron2's data, optimizer and schedule for COCO, 90000 iterations of 16 images, from its ImageNet ResNet-50."""

from detectron2.model_zoo import get_config

dataloader = get_config("common/data/coco.py").dataloader
optimizer = get_config("common/optim.py").SGD
lr_multiplier = get_config("common/coco_schedule.py").lr_multiplier_1x
train = get_config("common/train.py").train
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-50.pkl"
