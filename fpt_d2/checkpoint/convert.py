"""From other people's names to Detectron2's, and from FPT back to FPN."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ..errors import WeightsError
from .files import weights_by_name
from .names import is_fpt

_RENAMES = [
    (r"^module\.", ""),  # a model that was wrapped in DataParallel
    (r"^(conv1|bn1)\.", r"stem.\1."),
    *((rf"^layer{stage}\.", f"res{stage + 1}.") for stage in (1, 2, 3, 4)),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
]
_DETECTRON2_NAME = re.compile(
    r"(stem\.conv1|res[2-5]\.\d+\.(conv[123]|shortcut))\.(weight|norm\.(weight|bias|running_mean|running_var))"
)


def from_pickle(content: Any, path: str) -> dict[str, Any]:
    """The checkpoint in a ``.pkl``, which Detectron2 takes for Caffe2's without "model" and "__author__"."""
    if isinstance(content, dict) and {"model", "__author__"} <= content.keys():
        return content
    return _to_be_matched(content, path, "Caffe2", key="blobs", left_out="_momentum")


def from_pycls(content: Any, path: str) -> dict[str, Any]:
    """The checkpoint in a ``.pyth``, which Detectron2 takes for a file of pycls."""
    return _to_be_matched(content, path, "pycls", key="model_state", left_out="num_batches_tracked")


def _to_be_matched(content: Any, path: str, author: str, *, key: str, left_out: str) -> dict[str, Any]:
    """A checkpoint whose names Detectron2 matches; WeightsError if there are no weights by name, under a key or not."""
    weights = weights_by_name(content.get(key, content) if isinstance(content, dict) else content, path)
    kept = {name: weight for name, weight in weights.items() if not name.endswith(left_out)}
    return {"model": kept, "__author__": author, "matching_heuristics": True}


def rename_modules(weights: Mapping[str, Any], model: Mapping[str, Tensor]) -> dict[str, Any]:
    """Weights under the names that FPT's own modules have in a model, from those of version 0.1.

    One convolution over the branches of a level, ``fpt_fuse2``, is now cut along them, ``fpn_output2.fuse.0`` and on;
    the bottom-up path ``bfp_down3`` is ``pyramid.down.p3``. FPT over a backbone that is a pyramid also takes weights of
    a model with that backbone alone.

    Args:
        model: the weights that are wanted, by name.
    """
    inner = "backbone.bottom_up.bottom_up."
    if any(n.startswith(inner) for n in model) and not any(n.startswith(inner) for n in weights):
        weights = {re.sub(r"^backbone\.", "backbone.bottom_up.", name): weight for name, weight in weights.items()}
    renamed: dict[str, Any] = {}
    for name, weight in weights.items():
        name = re.sub(r"\bbfp_down(\d+)\.", r"pyramid.down.p\1.", name)
        level = re.sub(r"\bfpt_fuse(\d+)\.weight$", r"fpn_output\1.fuse.", name)
        level = re.sub(r"\bfpt_fuse\.(\w+)\.weight$", r"ufp_output.\1.fuse.", level)
        prefix = "module." if name.startswith("module.") else ""  # of a wrapped model; fvcore takes it off later
        parts = [n for n in model if level != name and n.startswith(level.removeprefix(prefix))]
        widths = [model[part].shape[1] for part in parts]
        if parts and weight.shape[1] == sum(widths):
            renamed.update(zip((f"{prefix}{part}" for part in parts), weight.split(widths, dim=1)))
        else:
            renamed[name] = weight
    return renamed


def is_torchvision_resnet(names: Collection[str]) -> bool:
    """Whether the names are those of torchvision's ResNets, which timm's have too."""
    return any(f"{prefix}layer1.0.conv1.weight" in names for prefix in ("", "module."))


def convert_resnet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Give the weights of a torchvision or timm ResNet or ResNeXt Detectron2's names.

    They are for RGB images, with the first stride of a stage in its 3x3 convolution. The classifier is left out. The
    result is a checkpoint that Detectron2 too loads into any model with such a trunk. Raises WeightsError if the state
    dict has parts that Detectron2's ResNet does not have, such as a deep stem or squeeze-and-excitation.
    """
    renamed: dict[str, Any] = {}
    for name, weight in weights.items():
        new = name
        for pattern, replacement in _RENAMES:
            new = re.sub(pattern, replacement, new)
        if new.startswith("fc.") or new.endswith("num_batches_tracked"):
            continue
        if not _DETECTRON2_NAME.fullmatch(new):
            raise WeightsError(f"{name} is not part of a plain ResNet or ResNeXt, and others cannot be converted")
        renamed[new] = weight
    return {"model": renamed, "__author__": "torchvision", "matching_heuristics": True}


def fpn_part(weights: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of an FPT model without what FPT adds: those of a Detectron2 FPN model.

    Raises WeightsError if there is nothing of FPT in them.
    """
    kept = {name: weight for name, weight in weights.items() if not is_fpt(name)}
    if len(kept) == len(weights):
        raise WeightsError("The weights have nothing of FPT: they are those of another model already")
    return kept
