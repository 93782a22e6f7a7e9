"""Small models that the tests of the backbone share."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import Tensor, nn

from fpt_d2 import FPT
from fpt_d2.engine import get_default_config
from fpt_d2.model_zoo import get_config_file
from fpt_d2.modeling import build_transform

RETINANET = "COCO-Detection/retinanet_R_50_FPT_1x.yaml"
FASTER_RCNN = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"
FPN_BUILDERS = {FASTER_RCNN: "build_resnet_fpn_backbone", RETINANET: "build_retinanet_resnet_fpn_backbone"}


def small_config(name: str = FASTER_RCNN, *opts: object) -> CfgNode:
    cfg = get_default_config()
    cfg.merge_from_file(get_config_file(name))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18])
    cfg.merge_from_list(["MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 32])
    cfg.merge_from_list(["MODEL.FPT.BRANCH_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 32])
    # The paper's form, of which the others are changes.
    cfg.merge_from_list(["MODEL.FPT.FUSE", "concat", "MODEL.FPT.MIN_STRIDE", 0, *opts])
    return cfg


def randomize(module: nn.Module) -> None:
    """Give the parts that start at zero a value, so that they count."""
    for name, parameter in module.named_parameters():
        if ".fuse." in name or "pyramid.down" in name:
            nn.init.normal_(parameter, std=0.05)


class PatchTrunk(Backbone):
    """A trunk whose features of a patch depend on that patch alone: no border, so nothing of the padding in them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleDict({f"res{n}": nn.Conv2d(3, 8 * n, 2**n, stride=2**n) for n in (2, 3, 4, 5)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: conv(x) for name, conv in self.convs.items()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {f"res{n}": ShapeSpec(channels=8 * n, stride=2**n) for n in (2, 3, 4, 5)}


def patch_fpt(**keys: object) -> FPT:
    """FPT over patches in float64, with keys of MODEL.FPT."""
    torch.manual_seed(0)
    trunk = PatchTrunk()
    cfg = small_config(FASTER_RCNN, *(x for key, value in keys.items() for x in (f"MODEL.FPT.{key}", value)))
    transform = build_transform(cfg, {"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 16)
    options = {"read_padding": cfg.MODEL.FPT.READ_PADDING, "zero_init_fuse": False}
    model = FPT(trunk, list(trunk.output_shape()), 16, transform=transform, **options)
    return model.double().eval()
