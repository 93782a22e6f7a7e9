"""How images must be fed to weights: channel order, mean, scale. A model with the wrong ones still runs, only worse."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from .library import library_trunk
from .packages import package_input, package_of

# Keys of a config, and the arguments that they are in Detectron2's configs in Python.
_KEYS = {
    "INPUT.FORMAT": "model.input_format",
    "MODEL.PIXEL_MEAN": "model.pixel_mean",
    "MODEL.PIXEL_STD": "model.pixel_std",
    "MODEL.RESNETS.STRIDE_IN_1X1": "model.backbone.bottom_up.stages.stride_in_1x1",
}
# Means are those of Detectron2's configs; Caffe's own differ by less than 1.
_BGR = {"INPUT.FORMAT": "BGR", "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]}
_MSRA = {**_BGR, "MODEL.PIXEL_STD": [1.0, 1.0, 1.0], "MODEL.RESNETS.STRIDE_IN_1X1": True}
_TORCHVISION = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
}
_LIBRARIES = ("torchvision", "timm")


def input_warning(model: nn.Module, source: str, author: str, input_format: str = "") -> str:
    """What to set when a model is fed otherwise than the weights it gets; "" where all is well or nothing is known.

    Args:
        source: path or address of the weights.
        author: ``__author__`` of their file, "" where it has none.
        input_format: the order of the model's channels. Not every model of Detectron2 knows its own.
    """
    wanted, origin = expected_input(source, author)
    if not package_of(source) and author in _LIBRARIES:
        wanted = {**wanted, **_library_input(model)}
    has = _input_of(model, input_format)
    wrong = {key: value for key, value in wanted.items() if key in has and not _same(value, has[key])}
    if not wrong:
        return ""
    wants, given = (", ".join(f"{key} {settings[key]}" for key in wrong) for settings in (wanted, has))
    return f"The weights {source} {origin}. Set {wants}: the model has {given}, which costs accuracy"


def expected_input(source: str, author: str) -> tuple[dict[str, Any], str]:
    """The config keys that the weights of this origin want, and the origin in words.

    In this order: the package that they come with; the config of a Detectron2 model zoo file; ``config.yaml`` beside a
    checkpoint that training wrote; the file's author. Only those Caffe2 files that have MSRA in their path tell more
    than the order of the channels.
    """
    if package := package_of(source):
        return package_input(package), f"come with the package {package}"
    if zoo := re.search(r"([\w.-]+/[\w.-]+)/\d+/model_final_\w+\.pkl$", source):
        return _from_zoo(zoo[1]), "are of Detectron2's model zoo"
    beside = os.path.join(os.path.dirname(source), "config.yaml")
    if re.fullmatch(r"model_\w+\.pth", os.path.basename(source)) and os.path.isfile(beside):
        return _from_yaml(beside), f"were trained with {beside}"
    if author == "Caffe2":
        return (_MSRA if "MSRA/" in source else _BGR), "come from Caffe2"
    if author in _LIBRARIES:
        return _TORCHVISION, f"come from {author}"
    return {}, ""


def _library_input(model: nn.Module) -> dict[str, Any]:
    """The keys that a trunk out of a library knows of its own weights; none where there is no such trunk."""
    trunk = library_trunk(model)
    mean, std = (getattr(trunk[1], name, None) if trunk else None for name in ("pixel_mean", "pixel_std"))
    return {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std} if mean and std else {}


def _from_zoo(name: str) -> dict[str, Any]:
    try:
        from detectron2 import model_zoo
    except ImportError:  # it needs pkg_resources, which setuptools no longer has
        return {}
    for suffix in (".yaml", ".py"):
        try:
            return _select(model_zoo.get_config(name + suffix), lazy=suffix == ".py")
        except RuntimeError:  # not in this version of Detectron2
            continue
    return {}


def _from_yaml(path: str) -> dict[str, Any]:
    with open(path) as file:
        try:
            return _select(yaml.safe_load(file))
        except yaml.YAMLError:  # not a config of Detectron2's yacs kind
            return {}


def _select(config: Any, *, lazy: bool = False) -> dict[str, Any]:
    selected = {}
    for key, argument in _KEYS.items():
        node = config
        for part in (argument if lazy else key).split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None:
            selected[key] = node
    return selected


def _input_of(model: nn.Module, input_format: str) -> dict[str, Any]:
    """The same keys as a built model has them, as far as that is known."""
    strided = [m for m in model.modules() if isinstance(m, BottleneckBlock) and m.stride == 2]
    found = {
        "INPUT.FORMAT": input_format or getattr(model, "input_format", None),
        "MODEL.PIXEL_MEAN": _numbers(getattr(model, "pixel_mean", None)),
        "MODEL.PIXEL_STD": _numbers(getattr(model, "pixel_std", None)),
        "MODEL.RESNETS.STRIDE_IN_1X1": strided[0].conv1.stride == (2, 2) if strided else None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _numbers(buffer: Any) -> Any:
    return None if buffer is None else [round(x, 3) for x in buffer.flatten().tolist()]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, str) or not isinstance(a, Sequence):
        return bool(a == b)
    # R and B means lie 18% apart; means of different authors within 1%.
    return len(a) == len(b) and torch.allclose(torch.tensor(list(a)), torch.tensor(b), rtol=0.05)
