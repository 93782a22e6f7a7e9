"""What a step costs without running it: FLOPs and memory, computed on tensors without data."""

from __future__ import annotations

import functools
import weakref
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fpt_d2.commands.measuring import flop_counter, measure_time

from .workload import Make, Setting


class Cost(NamedTuple):
    """FLOPs of the matrix products and convolutions; the peak of the tensors alive above inputs and parameters."""

    flops: int
    peak_bytes: int


@functools.cache
def compute_cost(make: Make, setting: Setting, mode: str) -> Cost:
    setting = replace(setting, device="cpu")  # the same operators, and no GPU has to take part
    with FakeTensorMode():
        workload = make(setting)
        with _Memory() as memory, flop_counter() as flops:
            workload.step(mode)
    return Cost(flops.get_total_flops(), memory.peak)


class _Memory(TorchDispatchMode):
    """Follows how many bytes of the storages that operators make are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._known.update(storage._cdata for storage in _storages((args, kwargs)))
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self._remove, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def measure_matrix_rate(setting: Setting) -> float:
    """What the device reaches, in FLOP per second: the best of a few large matrix products."""
    side = 2048 if setting.device == "cpu" else 8192
    a, b = (torch.randn(side, side, device=setting.device, dtype=setting.dtype) for _ in range(2))
    out = torch.empty_like(a)
    best = min(measure_time(lambda: torch.mm(a, b, out=out), setting.device).seconds for _ in range(5))
    return 2 * side**3 / best
