"""What a model costs, counted without computing anything: on tensors that have shapes and no values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import META_ARCH_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.analysis import parameter_count
from omegaconf import DictConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ..engine.checks import check_that_model_builds
from ..errors import UserError
from ..modeling import AdaptivePooler
from .measuring import flop_counter


class UncountableError(UserError):
    """A model whose multiply-adds cannot be counted here."""


class Cost(NamedTuple):
    """What a model costs; all but the parameters in multiply-adds for one image.

    Attributes:
        pyramid: laterals, output and fusion convolutions, top block.
    """

    name: str
    parameters: int
    trunk: int
    pyramid: int
    st: int
    gt: int
    rt: int
    heads: int

    @property
    def total(self) -> int:
        return sum(self[2:])


def measure(name: str, cfg: CfgNode | DictConfig, height: int, width: int) -> Cost:
    """Count the parameters and the multiply-adds of a config's model for one image.

    Args:
        name: of the row.
        cfg: its MODEL.DEVICE chooses the form of attention; no such device is needed. A lazy one may be given too.
        height, width: of the image, before it is padded.

    Raises:
        UncountableError: the model has heads that are not known here, or parts that need values.
        ConfigError: the config is wrong.
    """
    if isinstance(cfg, CfgNode):
        check_that_model_builds(cfg)
    try:
        with torch.device("meta"):
            model = _build(cfg)
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device_of(cfg)), torch.no_grad():
            return _measure(name, _without_values(model, device_of(cfg)), height, width)
    except (RuntimeError, ImportError) as error:  # of compiled code that wants values, or is not there
        reason = str(error).partition("\n")[0]
        raise UncountableError(f"{name} cannot be analyzed: {reason}") from error


def _measure(name: str, model: Any, height: int, width: int) -> Cost:
    stride = max(model.backbone.size_divisibility, 1)
    image = torch.rand(1, 3, *(-(-side // stride) * stride for side in (height, width)))
    with flop_counter() as of_backbone:
        features = model.backbone(image)
    with flop_counter() as of_heads:
        _run_heads(model, features)
    heads = of_heads.get_total_flops() // 2
    return Cost(name, parameter_count(model)[""], **_shares(of_backbone), heads=heads)


def device_of(cfg: CfgNode | DictConfig) -> str:
    return str(cfg.train.device if isinstance(cfg, DictConfig) else cfg.MODEL.DEVICE)


def _build(cfg: CfgNode | DictConfig) -> Any:
    if isinstance(cfg, DictConfig):
        return instantiate(cfg.model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRUNK.PRETRAINED = False  # values are of no use
    # Not build_model, which moves the model to its device.
    return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)


def _without_values(model: Any, device: str) -> Any:
    """The model on a device, where its tensors have shapes and neither values nor memory."""
    for module in model.modules():
        if getattr(module, "read_padding", False):
            module.read_padding = False  # which cannot be read without values: everything counts as image
    return model.to_empty(device=device).eval()


def _run_heads(model: Any, features: Mapping[str, Tensor]) -> None:
    """Everything behind the backbone whose shapes do not depend on what is detected."""
    roi_heads = getattr(model, "roi_heads", None)
    is_known = any(hasattr(model, part) for part in ("proposal_generator", "sem_seg_head", "head_in_features"))
    if not is_known or not isinstance(roi_heads, StandardROIHeads | None):
        raise UncountableError(f"MODEL.META_ARCHITECTURE {type(model).__name__} has heads that cannot be analyzed here")
    if hasattr(model, "proposal_generator"):
        rpn = model.proposal_generator
        rpn.rpn_head([features[name] for name in rpn.in_features])
    if roi_heads:
        _run_roi_heads(roi_heads, features, rpn.post_nms_topk[False])
    if hasattr(model, "sem_seg_head"):
        model.sem_seg_head(features)
    if hasattr(model, "head_in_features"):  # RetinaNet and its relatives
        model.head([features[name] for name in model.head_in_features])


def _run_roi_heads(heads: StandardROIHeads, features: Mapping[str, Tensor], num_proposals: int) -> None:
    if heads.mask_on and heads.mask_pooler is None:
        name = type(heads.mask_head).__name__
        raise UncountableError(f"{name} costs what the detections ask for: it cannot be analyzed")
    # Cascade R-CNN has a list of each.
    boxes, predictors = ([m] if not isinstance(m, nn.ModuleList) else m for m in (heads.box_head, heads.box_predictor))
    channels = features[heads.box_in_features[0]].shape[1]
    for head, predictor in zip(boxes, predictors):
        predictor(head(_pooled(heads.box_pooler, num_proposals, channels)))
    first: Any = predictors[0]
    num_found = first.test_topk_per_image
    if heads.mask_on:
        heads.mask_head.layers(_pooled(heads.mask_pooler, num_found, channels))
    if heads.keypoint_on:
        heads.keypoint_head.layers(_pooled(heads.keypoint_pooler, num_found, channels))


def _pooled(pooler: ROIPooler, num_boxes: int, channels: int) -> Tensor:
    """As many features of boxes as ``pooler`` makes them."""
    levels = (len(pooler.level_poolers),) if isinstance(pooler, AdaptivePooler) else ()
    return torch.rand(num_boxes, *levels, channels, *pooler.output_size)


def _shares(counter: FlopCounterMode) -> dict[str, int]:
    """Multiply-adds of the backbone's parts; its counts are keyed by module, "FPT.fpt.gt.p2_p3.query"."""
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    shares = {"trunk": sum(macs for name, macs in counts.items() if name.split(".")[1:] == ["bottom_up"])}
    for branch in ("st", "gt", "rt"):
        edges = (name for name in counts if name.split(".")[2:3] == [branch] and name.count(".") == 3)
        shares[branch] = sum(counts[name] for name in edges)
    return {"pyramid": counts["Global"] - sum(shares.values()), **shares}
