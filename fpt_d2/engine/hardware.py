"""Whether machines, devices and operators are there for what a config asks for. Each failure is one sentence."""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import sys
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from torch import nn

from ..core.arguments import check_argument
from ..errors import ConfigError, require
from ..evaluation import check_cityscapes, has_rotated_boxes

# Whether Detectron2 has its operators in C++ and CUDA; the package that stands in for it does not.
HAS_COMPILED = importlib.util.find_spec("detectron2._C") is not None
_COMPILED = "needs Detectron2's compiled operators, and this Detectron2 comes without: build it from its sources"


def check_cityscapes_sets(train: Sequence[str], test: Sequence[str], num_machines: int) -> None:
    """Raises ConfigError if Detectron2 cannot work with one of the data sets, Cityscapes' instances, here."""
    for name in (*train, *test):
        check_cityscapes(name)
    types = [MetadataCatalog.get(name).get("evaluator_type", None) for name in test]
    fine = num_machines == 1 or "cityscapes_instance" not in types
    require(fine, "Detectron2 evaluates Cityscapes' instances on one machine only: set --num-machines 1")


def check_device(device: str, num_gpus: int, *, key: str, on_cpu: str) -> None:
    """Raises ConfigError if the device is not there, or fewer of it than ``num_gpus``.

    ``key`` is its name in the config, ``on_cpu`` what to write on the command line for the CPU.
    """
    require(num_gpus > 0, f"--num-gpus is {num_gpus}; allowed: a positive number, 1 with {on_cpu} for the CPU")
    if device_type(device, key) != "cuda":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    require(found > 0, f"{key} is {device}, but PyTorch finds no GPU here: add {on_cpu} to run on the CPU")
    require(num_gpus <= found, f"--num-gpus is {num_gpus}, but PyTorch finds {found} GPUs here: ask for no more")
    index = torch.device(device).index or 0
    require(index < found, f"{key} is {device}, but PyTorch finds {found} GPUs here, numbered from 0")


def device_type(device: str, key: str = "MODEL.DEVICE") -> str:
    """``"cuda"`` of ``"cuda:1"``; a ConfigError where PyTorch does not know the device."""
    try:
        name = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"{key} is {device!r}, which PyTorch does not know; it knows cuda and cpu") from error
    require(name in ("cuda", "cpu"), f"{key} is {device!r}, on which Detectron2 does not run; allowed: 'cuda', 'cpu'")
    return name


def check_precision(device: str, is_mixed: bool, *, key: str) -> None:
    """Raises ConfigError if mixed precision is asked for on a device that cannot train in it."""
    require(
        not is_mixed or device.startswith("cuda"),
        f"{key} needs a GPU: Detectron2 trains in mixed precision with CUDA only",
    )


def check_operators(cfg: CfgNode, *, trains: bool) -> None:
    """Raises ConfigError if the model needs operators that this Detectron2 does not have on the device."""
    resnets, is_cpu = cfg.MODEL.RESNETS, device_type(cfg.MODEL.DEVICE) == "cpu"
    if any(resnets.DEFORM_ON_PER_STAGE) and is_cpu:
        key = f"MODEL.RESNETS.DEFORM_ON_PER_STAGE is {resnets.DEFORM_ON_PER_STAGE}"
        is_plain = not resnets.DEFORM_MODULATED and resnets.DEFORM_NUM_GROUPS == 1
        require(
            not trains and is_plain, f"{key}, and Detectron2's deformable convolutions need a GPU for that: set none"
        )
    elif any(resnets.DEFORM_ON_PER_STAGE):
        require(HAS_COMPILED, f"MODEL.RESNETS.DEFORM_ON_PER_STAGE {_COMPILED}")
    # Of other architectures and proposal generators, which are somebody's own, nothing is known.
    is_known = cfg.MODEL.META_ARCHITECTURE in ("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN")
    is_upright = is_known and cfg.MODEL.PROPOSAL_GENERATOR.NAME == "RPN"
    require(
        not is_upright or cfg.MODEL.ANCHOR_GENERATOR.NAME != "RotatedAnchorGenerator",
        "MODEL.ANCHOR_GENERATOR.NAME is 'RotatedAnchorGenerator', which needs MODEL.PROPOSAL_GENERATOR.NAME RRPN",
    )
    require(HAS_COMPILED or not has_rotated_boxes(cfg), f"A model of rotated boxes (RRPN, RROIHeads) {_COMPILED}")


def check_memory(model: nn.Module | None) -> None:
    """Raises ArgumentError if this machine has less memory than the weights of a model, which has none yet, take."""
    weights = (*model.parameters(), *model.buffers()) if model is not None else ()
    size, memory = sum(w.numel() * w.element_size() for w in weights), _memory_of_machine()
    allowed = f"the {memory / 2**30:.3g} GiB of this machine"
    check_argument("its size", f"{size / 2**30:.3g} GiB", size < memory, allowed)


def _memory_of_machine() -> float:
    """In bytes; infinity where the operating system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return math.inf


def peak_memory() -> int:
    """The most resident memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
