"""Whether weights are numbers at all: those of a training that has diverged are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def not_finite(model: nn.Module) -> list[str]:
    """The names of parameters and of what normalization has in buffers, where these hold NaN or infinity.

    A frozen one has its weight and bias there, too. Other buffers may hold infinity, such as masks.
    """
    of_norm = ("running_mean", "running_var", ".weight", ".bias")
    buffers = {name: b for name, b in model.named_buffers() if name.endswith(of_norm)}
    return _not_finite({**dict(model.named_parameters()), **buffers})


def state_not_finite(optimizer_state: Mapping[str, Any]) -> list[str]:
    """The same for an optimizer's ``state_dict()``; the names are e.g. ``momentum_buffer of parameter 3``."""
    states = optimizer_state.get("state", {})
    named = {f"{name} of parameter {index}": value for index, state in states.items() for name, value in state.items()}
    return _not_finite({name: value for name, value in named.items() if isinstance(value, Tensor)})


def _not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    wrong: set[str] = set()
    for device in {value.device for value in tensors.values()}:  # AdamW counts its steps on the CPU
        names = [name for name, value in tensors.items() if value.device == device]
        with torch.no_grad():  # one transfer from the GPU for all
            fine = torch.stack([tensors[name].isfinite().all() for name in names]).tolist()
        wrong.update(name for name, is_fine in zip(names, fine) if not is_fine)
    return [name for name in tensors if name in wrong]
