"""From a config (``MODEL.TRUNK``, ``MODEL.PLUGINS``) to a trunk."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import DeformConv, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, ResNet
from torch import nn

from ...errors import ConfigError
from ..keys import arguments_from
from .library import FeatureTrunk, timm_trunk, torchvision_trunk
from .resnet import PluginResNet

logger = logging.getLogger(__name__)

# What Detectron2's ResNet knows.
RESNET_DEPTHS = (18, 34, 50, 101, 152)


def build_trunk(cfg: CfgNode, input_shape: ShapeSpec, builder: str | None = None) -> Backbone:
    """The bottom-up backbone of a neck.

    Args:
        cfg: with the keys of :func:`fpt_d2.add_fpt_config`.
        builder: its name in Detectron2's registry; ``MODEL.TRUNK.BUILDER`` where None.

    Raises:
        ConfigError: a value that is not allowed, or that cannot be had here, naming its key.
    """
    name = builder or cfg.MODEL.TRUNK.BUILDER
    has_neck = name.endswith(("fpn_backbone", "fpt_backbone", "ufp_backbone"))
    if name not in BACKBONE_REGISTRY or name == cfg.MODEL.BACKBONE.NAME or has_neck:
        raise ConfigError(
            f"MODEL.TRUNK.BUILDER is {name!r}; allowed: a backbone without a neck in Detectron2's BACKBONE_REGISTRY, "
            "such as 'build_resnet_backbone', 'build_torchvision_backbone', 'build_timm_backbone'"
        )
    if "resnet" in name and any(cfg.MODEL.RESNETS.DEFORM_ON_PER_STAGE) and not issubclass(DeformConv, nn.Module):
        raise ConfigError(
            "MODEL.RESNETS.DEFORM_ON_PER_STAGE needs Detectron2's compiled operators, which the one installed here "
            "does not have: set it to [False, False, False, False], or install a Detectron2 built with detectron2._C"
        )
    depth = cfg.MODEL.RESNETS.DEPTH
    if name == "build_resnet_backbone" and depth not in RESNET_DEPTHS:
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth!r}; allowed: {', '.join(map(str, RESNET_DEPTHS))}")
    return _plug_in(cfg, BACKBONE_REGISTRY.get(name)(cfg, input_shape))


def _plug_in(cfg: CfgNode, trunk: Backbone) -> Backbone:
    """The trunk with the blocks of ``MODEL.PLUGINS``; itself where there are none."""
    plugins = cfg.MODEL.PLUGINS
    if not (plugins.NON_LOCAL or plugins.GLOBAL_CONTEXT or plugins.ATTENTION_AUGMENTED):
        return trunk
    if type(trunk) is not ResNet:
        raise ConfigError(f"MODEL.PLUGINS needs Detectron2's ResNet; the trunk is a {type(trunk).__name__}")
    with arguments_from("MODEL.PLUGINS"):
        return PluginResNet(
            trunk.stem,
            [list(stage) for stage in trunk.stages],  # frozen already, as far as they shall be
            out_features=list(trunk.output_shape()),
            non_local=plugins.NON_LOCAL,
            global_context=plugins.GLOBAL_CONTEXT,
            attention_augmented=plugins.ATTENTION_AUGMENTED,
            non_local_similarity=plugins.NON_LOCAL_SIMILARITY,
            read_padding=cfg.MODEL.FPT.READ_PADDING,
        )


@BACKBONE_REGISTRY.register()
def build_torchvision_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureTrunk:
    """A model of torchvision, its features named res2 to res5 by their strides."""
    return _explained(torchvision_trunk, cfg, layers=cfg.MODEL.TRUNK.LAYERS)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FeatureTrunk:
    """A model of timm, its features named res2 to res5 by their strides."""
    return _explained(timm_trunk, cfg)


def _explained(make: Any, cfg: CfgNode, **options: Any) -> FeatureTrunk:
    """Make a trunk; of what goes wrong, say that it is about the config's."""
    trunk = cfg.MODEL.TRUNK
    if not trunk.NAME:
        raise ConfigError(f"MODEL.TRUNK.NAME is ''; allowed: the name of a model, as BUILDER is {trunk.BUILDER!r}")
    try:
        with arguments_from("MODEL.TRUNK"):
            made: FeatureTrunk = make(trunk.NAME, pretrained=_is_pretrained(cfg), norm=trunk.NORM, **options)
    except ConfigError:
        raise
    except (ImportError, ValueError) as error:
        raise ConfigError(f"MODEL.TRUNK: {error}") from error
    except OSError as error:  # of the network, if not of the file
        raise ConfigError(
            f"MODEL.TRUNK.PRETRAINED: the weights of {trunk.NAME} cannot be fetched ({error}): set it to False, and "
            "MODEL.WEIGHTS to weights that are here"
        ) from error
    if _is_pretrained(cfg) and made.pixel_mean and made.pixel_std:
        _warn_of_input(cfg, made.pixel_mean, made.pixel_std)
    return made


def _is_pretrained(cfg: CfgNode) -> bool:
    """Weights of the whole model would replace the library's."""
    return cfg.MODEL.TRUNK.PRETRAINED and not cfg.MODEL.WEIGHTS


def _warn_of_input(cfg: CfgNode, mean: Sequence[float], std: Sequence[float]) -> None:
    """Libraries' weights want RGB images, and a scale that Detectron2's defaults do not have."""
    model = cfg.MODEL
    given = torch.tensor([*model.PIXEL_MEAN, *model.PIXEL_STD])
    if cfg.INPUT.FORMAT != "RGB" or not torch.allclose(given, torch.tensor([*mean, *std]), rtol=0.05):
        logger.warning(
            "The weights of %s want INPUT.FORMAT RGB, MODEL.PIXEL_MEAN %s, MODEL.PIXEL_STD %s: the model has %s, %s, %s"
            ", which costs accuracy",
            *(model.TRUNK.NAME, mean, std, cfg.INPUT.FORMAT, model.PIXEL_MEAN, model.PIXEL_STD),
        )
