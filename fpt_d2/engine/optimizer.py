"""The optimizer of ``SOLVER``, with rates by part of the model, and what it can go on from."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ..checkpoint.names import is_fpt
from ..core.arguments import one_of
from ..errors import ConfigError

OPTIMIZERS = ("SGD", "AdamW")
# Detectron2's two clip every parameter by itself; the last clips the norm of all together, as DETR and its kin do.
CLIP_TYPES = ("value", "norm", "full_model")
# Of the softmaxes: near zero, where weight decay pulls them, attention is a mean and its parts weigh the same.
NO_DECAY = ("logit_scale", "gate")

# The branches, the convolutions that bring them to their width, and those that fuse them.
_BRANCHES = re.compile(r"(^|\.)fpt\.|_output\d*\.(\w+\.)?fuse\.")

# As the ``param_groups`` of an optimizer.
Groups = list[dict[str, Any]]


def check_optimizer(cfg: CfgNode) -> None:
    """Raises ConfigError if a key of the optimizer has a value that is not allowed."""
    solver, clip = cfg.SOLVER, cfg.SOLVER.CLIP_GRADIENTS
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; allowed: {one_of(OPTIMIZERS)}")
    for key, instead in {
        "BACKBONE_MULTIPLIER": "MODEL.BACKBONE.FREEZE_AT keeps stages of a trunk as they are",
        "FPT_MULTIPLIER": "MODEL.FPT.BRANCHES [] is a model without branches",
    }.items():
        if not (0 < solver[key] < math.inf):
            raise ConfigError(f"SOLVER.{key} is {solver[key]}; allowed: a positive number ({instead})")
    if clip.ENABLED and clip.CLIP_TYPE not in CLIP_TYPES:
        raise ConfigError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; allowed: {one_of(CLIP_TYPES)}")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimizer of ``cfg.SOLVER`` for what of the model is trained.

    It goes on from the state of one with the same groups, and from that of one with Detectron2's groups, in which gates
    decay too; any other raises ConfigError.
    """
    check_optimizer(cfg)
    solver = cfg.SOLVER
    options = {
        "base_lr": solver.BASE_LR,
        "weight_decay_norm": solver.WEIGHT_DECAY_NORM,
        "weight_decay_bias": solver.WEIGHT_DECAY_BIAS,
        "bias_lr_factor": solver.BIAS_LR_FACTOR,
    }
    rates = {"backbone_multiplier": solver.BACKBONE_MULTIPLIER, "fpt_multiplier": solver.FPT_MULTIPLIER}
    groups, decay = parameter_groups(model, **options, **rates), solver.WEIGHT_DECAY
    optimizer: Optimizer
    if solver.OPTIMIZER == "SGD":
        momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
        optimizer = SGD(groups, solver.BASE_LR, weight_decay=decay, foreach=True, **momentum)
    else:
        optimizer = AdamW(groups, solver.BASE_LR, weight_decay=decay)
    before = get_default_optimizer_params(model, **options) if set(rates.values()) == {1.0} else []
    make_resumable(optimizer, before, key="SOLVER.OPTIMIZER")
    return _with_clipping(cfg, optimizer)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    backbone_multiplier: float = 1.0,
    fpt_multiplier: float = 1.0,
    bias_lr_factor: float = 1.0,
    **options: Any,
) -> Groups:
    """Detectron2's parameter groups, with rates by part of the model and no decay of temperatures and gates.

    Args:
        base_lr: learning rate of what has no other.
        backbone_multiplier: of the learning rate of the trunk, ``backbone.bottom_up``; a backbone without a neck is a
            trunk. What is added to a trunk (``MODEL.PLUGINS``) is not of it.
        fpt_multiplier: of that of the branches and of the convolutions that fuse them.
        bias_lr_factor: of that of biases, on top.
        options: see ``get_default_optimizer_params``.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    trunk = trunk_prefix(model)

    def factor(name: str) -> float:
        # Not as Detectron2's bias_lr_factor, which would replace the rate of a part instead of multiplying it.
        factor = bias_lr_factor if name.endswith(".bias") else 1.0
        if _BRANCHES.search(name):
            return factor * fpt_multiplier
        return factor * backbone_multiplier if name.startswith(trunk) and not is_fpt(name) else factor

    overrides = {name: {"weight_decay": 0.0} for name in NO_DECAY}
    groups: Groups = get_default_optimizer_params(
        model, base_lr=base_lr, lr_factor_func=factor, overrides=overrides, **options
    )
    return groups


def trunk_prefix(model: nn.Module) -> str:
    """How the names of the trunk's parameters begin: a neck over a pyramid has its trunk within that pyramid's."""
    names, prefix = [name for name, _ in model.named_parameters()], "backbone."
    while any(name.startswith(f"{prefix}bottom_up.") for name in names):
        prefix += "bottom_up."
    return prefix


def make_resumable(optimizer: Optimizer, before: Groups, *, key: str) -> None:
    """Let the optimizer load the state of another one, or refuse it, as :func:`fitting_state` says."""
    optimizer.register_load_state_dict_pre_hook(lambda this, state: fitting_state(state, this, before, key=key))


def fitting_state(state: dict[str, Any], optimizer: Optimizer, before: Groups, *, key: str) -> dict[str, Any]:
    """The state of an optimizer, from a checkpoint, in the groups of this one.

    Args:
        state: what ``state_dict()`` of that one has returned.
        before: other groups of the same parameters, all with the learning rate that they have here, that it may have.
        key: of the config, the one that chooses the optimizer.

    Raises:
        ConfigError: it is of another kind, or has other groups.
    """
    saved, groups = state["param_groups"], optimizer.param_groups
    was, now = (_kind(some) for some in (saved, groups))
    anew = "start another training from its weights, with another output folder and without --resume"
    if was != now:
        raise ConfigError(
            f"The checkpoint was trained by {was}, from whose state {now} cannot go on: set {key} to {was}, or {anew}"
        )
    if _sizes(saved) == _sizes(groups):
        return state
    if _sizes(saved) != _sizes(before):
        raise ConfigError(
            f"The checkpoint was trained with parameter groups of {_sizes(saved)} tensors, from whose state groups of "
            f"{_sizes(groups)} cannot go on: set the model and the multipliers of its rates as they were, or {anew}"
        )
    places = {p: (index, old) for g, old in zip(before, saved) for p, index in zip(g["params"], old["params"])}
    return {"state": state["state"], "param_groups": [_regroup(group, places) for group in groups]}


def _regroup(group: dict[str, Any], places: dict[Tensor, tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """What a checkpoint says of the parameters of a group, from the index and the group that each has there."""
    indices = [places[parameter][0] for parameter in group["params"]]
    _, old = places[group["params"][0]]
    return {**old, "weight_decay": group["weight_decay"], "params": indices}


def _kind(groups: Groups) -> str:
    return "AdamW" if "betas" in groups[0] else "SGD"


def _sizes(groups: Groups) -> list[int]:
    return [len(group["params"]) for group in groups]


def _with_clipping(cfg: CfgNode, optimizer: Optimizer) -> Optimizer:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        clipping: Optimizer = maybe_add_gradient_clipping(cfg, optimizer)
        return clipping

    def clip_all(this: Optimizer, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        parameters = [parameter for group in this.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_all)
    return optimizer
