"""What a step costs without running it: FLOPs, memory and traffic, computed on tensors without data."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .measure import flop_counter, measure_time
from .workload import Make, Setting


@dataclass(frozen=True)
class Machine:
    """What the device reaches: FLOP per second in matrix products, bytes per second written by a copy."""

    matrix_rate: float
    write_rate: float


@dataclass(frozen=True)
class Cost:
    """FLOPs of the matrix products and convolutions; the peak of the tensors alive; bytes of all tensors made."""

    flops: int
    peak_bytes: int
    written_bytes: int

    def seconds(self, machine: Machine) -> float:
        return self.flops / machine.matrix_rate + self.written_bytes / machine.write_rate


def compute_cost(make: Make, setting: Setting, mode: str) -> Cost:
    """The cost of one step above its inputs and parameters."""
    with FakeTensorMode():
        workload = make(setting)
        with _TensorLog() as log, flop_counter() as flops:
            workload.step(mode)
    return Cost(flops.get_total_flops(), log.peak, log.written)


class _TensorLog(TorchDispatchMode):
    """Adds up the storages that operators make, and follows how many bytes of them are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.written = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._known.add(tensor.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.written += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def measure_machine(setting: Setting) -> Machine:
    """The best of a few large matrix products and of a few large copies."""
    side = 2048 if setting.device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    out = torch.empty_like(a)
    matrix = min(measure_time(lambda: torch.mm(a, b, out=out), setting.device).seconds for _ in range(5))
    data = torch.zeros(2**26, device=setting.device)
    copy = torch.empty_like(data)
    write = min(measure_time(lambda: copy.copy_(data), setting.device).seconds for _ in range(5))
    return Machine(2 * side**3 / matrix, data.nbytes / write)
