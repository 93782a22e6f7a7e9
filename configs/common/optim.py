"""AdamW as ``SOLVER.OPTIMIZER "AdamW"`` builds it: ``from ..common.optim import AdamW as optimizer``."""

import torch
from detectron2.config import LazyCall as L

from fpt_d2.engine.optimizer import parameter_groups

AdamW = L(torch.optim.AdamW)(
    params=L(parameter_groups)(
        base_lr="${..lr}",
        # of the learning rates of the trunk, and of the branches and their fusion
        backbone_multiplier=1.0,
        fpt_multiplier=1.0,
        weight_decay_norm=0.0,
    ),
    lr=2e-4,
    weight_decay=0.05,
)
