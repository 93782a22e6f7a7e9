"""What cannot be exported, said from the config, before anything is loaded."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..config import SEMANTIC_SEGMENTATION
from ..errors import ConfigError, UserError

_ARCHITECTURES = ("GeneralizedRCNN", "RetinaNet", SEMANTIC_SEGMENTATION)
_BACKBONE = "--part backbone exports the backbone alone"


def check_squares(cfg: CfgNode, export_format: str) -> None:
    """Raises ConfigError if a branch ties a graph to one image size."""
    size = cfg.MODEL.FPT.GT_SQUARE_SIZE
    if export_format != "compile" and size:
        raise ConfigError(
            f"MODEL.FPT.GT_SQUARE_SIZE is {size}, which ties a {export_format} graph to one image size: "
            "export a model that was trained with GT_SQUARE_SIZE 0"
        )


def check_whole(cfg: CfgNode, export_format: str) -> None:
    """Raises UserError if the whole model of a config cannot be exported in this format."""
    if export_format == "compile":
        raise UserError("--format compile writes nothing, and takes the backbone alone: leave --part out")
    check_squares(cfg, export_format)
    for is_set, what in _obstacles(cfg, export_format):
        if is_set:
            raise ConfigError(f"{what} cannot be exported as a whole as {export_format}: {_BACKBONE}")


def _obstacles(cfg: CfgNode, export_format: str) -> list[tuple[bool, str]]:
    model, architecture = cfg.MODEL, cfg.MODEL.META_ARCHITECTURE
    is_rcnn = architecture == "GeneralizedRCNN"
    heads = model.ROI_HEADS.NAME
    return [
        (architecture not in _ARCHITECTURES, f"A {architecture} (MODEL.META_ARCHITECTURE)"),
        (cfg.TEST.AUG.ENABLED, "Test-time augmentation (TEST.AUG.ENABLED)"),
        (
            architecture == SEMANTIC_SEGMENTATION and cfg.TEST.SLIDING_WINDOW.ENABLED,
            "Sliding windows (TEST.SLIDING_WINDOW.ENABLED)",
        ),
        (any(model.RESNETS.DEFORM_ON_PER_STAGE), "A trunk of deformable convolutions"),
        (is_rcnn and model.KEYPOINT_ON, "Keypoints (MODEL.KEYPOINT_ON)"),
        (is_rcnn and model.PROPOSAL_GENERATOR.NAME != "RPN", f"Proposals of {model.PROPOSAL_GENERATOR.NAME}"),
        (is_rcnn and "PointRend" in heads + model.ROI_MASK_HEAD.NAME, "PointRend"),
        (is_rcnn and ("RROI" in heads or "Rotated" in model.ROI_BOX_HEAD.POOLER_TYPE), "Rotated boxes"),
        (is_rcnn and heads in ("Res5ROIHeads", "AdaptiveCascadeROIHeads"), f"MODEL.ROI_HEADS.NAME {heads}"),
        # Which was tried with Detectron2's own alone.
        (is_rcnn and export_format == "torch_export" and heads != "StandardROIHeads", f"MODEL.ROI_HEADS.NAME {heads}"),
        (cfg.INPUT.FORMAT not in ("BGR", "RGB"), f"A model of {cfg.INPUT.FORMAT} images (INPUT.FORMAT)"),
    ]
