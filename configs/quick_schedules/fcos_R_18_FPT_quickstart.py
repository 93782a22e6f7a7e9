"""FCOS with FPT on the synthetic shapes, from scratch on the CPU: tools/lazyconfig_train_net.py --config-file ..."""

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.model_zoo import get_config
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

import fpt_d2.data  # noqa: F401  (registers the data set)

from ..common.coco_1x import dataloader, optimizer, train
from ..common.fpt import use_fpt

model = get_config("common/models/fcos.py").model
use_fpt(model, range(3, 6))
model.backbone.update(out_channels=64, norm="GN")
model.backbone.transform.update(channels=32, fuse="concat")  # as it was trained
model.backbone.transform.st.max_kv_tokens = model.backbone.transform.gt.max_kv_tokens = 256
model.backbone.top_block.in_channels = 64
model.backbone.bottom_up.update(freeze_at=0)
model.backbone.bottom_up.stem.norm = "BN"
model.backbone.bottom_up.stages.update(depth=18, norm="BN")
model.backbone.bottom_up.stages.pop("stride_in_1x1")  # of bottlenecks
model.head.update(input_shape=[ShapeSpec(channels=64)] * 5, conv_dims=[64, 64])
model.update(num_classes=6, pixel_std=[57.375, 57.12, 58.395])

dataloader.train.dataset.names = "fpt_shapes_train"
dataloader.train.update(total_batch_size=4, num_workers=0)
dataloader.train.mapper.use_instance_mask = False
dataloader.train.mapper.augmentations = [
    L(T.ResizeShortestEdge)(short_edge_length=128, max_size=192),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.test.dataset.names = "fpt_shapes_val"
dataloader.test.num_workers = 0
dataloader.test.mapper.augmentations = [L(T.ResizeShortestEdge)(short_edge_length=128, max_size=192)]

optimizer.lr = 0.01
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[590, 690, 720]),
    warmup_length=50 / 720,
    warmup_method="linear",
    warmup_factor=0.001,
)
train.update(
    device="cpu",
    init_checkpoint="",
    max_iter=720,
    eval_period=360,
    output_dir="output/fcos_R_18_FPT_quickstart",
    seed=7,
)
train.checkpointer.period = 300
