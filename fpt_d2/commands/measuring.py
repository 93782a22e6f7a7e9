"""How long a step takes, and what it multiplies: shared by the ablation, the counts of a model and the benchmark."""

from __future__ import annotations

import inspect
import resource
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, flop_registry


class Step(NamedTuple):
    """How long a step took and, of one that was watched, what it needed.

    Attributes:
        seconds: what ratios are made of: user and system on the CPU, which another busy process changes little; the
            clock's on a GPU.
        user_seconds, system_seconds: processor time per thread, sampled by the system and so rough for short steps. The
            system's part is mostly that of new pages of memory.
        wall_seconds: by the clock.
        peak_bytes: highest memory above inputs and parameters; None where the system does not say.
        flops: in matrix products and convolutions.
    """

    seconds: float
    user_seconds: float
    system_seconds: float
    wall_seconds: float
    peak_bytes: int | None = None
    flops: int = 0


def measure_time(function: Callable[[], object], device: str) -> Step:
    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    clock, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    function()
    synchronize()
    wall, after = time.perf_counter() - clock, resource.getrusage(resource.RUSAGE_SELF)
    threads = torch.get_num_threads()
    user = (after.ru_utime - before.ru_utime) / threads
    system = (after.ru_stime - before.ru_stime) / threads
    return Step(wall if device == "cuda" else user + system, user, system, wall)


def flop_counter() -> FlopCounterMode:
    """Torch's counter of FLOPs, with the operators that it leaves out and the backward pass of grouped convolutions."""
    aten = torch.ops.aten
    fused = "_scaled_dot_product_flash_attention"
    missing = {
        aten.addmm_: aten.addmm,
        getattr(aten, f"{fused}_for_cpu"): getattr(aten, fused),
        getattr(aten, f"{fused}_for_cpu_backward"): getattr(aten, f"{fused}_backward"),
    }
    formulas = {operator: inspect.unwrap(flop_registry[like]) for operator, like in missing.items()}
    formulas[aten.convolution_backward] = _convolution_backward_flops
    return FlopCounterMode(display=False, custom_mapping=formulas)


def _convolution_backward_flops(
    grad_shape: list[int], x_shape: list[int], weight_shape: list[int], *others: Any, **options: Any
) -> int:
    """As many for each gradient as forward; torch's own takes the weight of a grouped convolution for a full one."""
    *_, transposed, _output_padding, _groups, wanted, _out_shape = *others, options["out_shape"]
    return int(sum(wanted[:2]) * conv_flop_count(x_shape, weight_shape, grad_shape, transposed))
