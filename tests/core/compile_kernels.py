"""Run by test_triton_mixture.py: compile what ``impl="triton"`` launches, for a GPU that need not be there.

``python -m tests.core.compile_kernels bfloat16 4 64 256`` (dtype, parts, channels of a part, value channels; then, if
need be, the compute capability: 90 is an H100, 80 an A100) prints of each kernel the bytes of shared memory that a
program needs, a thread's registers, and the bytes that did not fit in them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from fpt_d2.core import triton_kernels, triton_mixture

# KiB that a program may have.
SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227}
KERNELS = ("mixture_forward", "mixture_backward_queries", "mixture_backward_keys")
USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


class Driver:
    """Of a GPU that can be compiled for, and nothing else."""

    def __init__(self, capability: int) -> None:
        self.capability, self.target = capability, GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.capability  # as a number: what was compiled for one device is not compiled again

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """In the place of a kernel: a launch compiles it, and notes what it needs."""

    def __init__(self, name: str, needs: dict[str, Any]) -> None:
        self.name, self.needs, self.kernel = name, needs, getattr(triton_kernels, name)
        self.arg_names = self.kernel.arg_names

    def __getitem__(self, grid: Any) -> Any:
        return self.launch

    def launch(self, **arguments: Any) -> None:
        compiled = self.kernel.warmup(grid=(1,), **arguments)
        registers, spilled = resources(compiled.asm["cubin"])
        self.needs[self.name] = {"shared": compiled.metadata.shared, "registers": registers, "spilled": spilled}


def resources(program: bytes) -> tuple[int, ...]:
    """Registers of a thread, and bytes of its stack."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(program)
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return tuple(map(int, USAGE.search(report.stdout).groups()))


def compile_all(dtype: torch.dtype, parts: int, width: int, values: int, capability: int = 90) -> dict[str, Any]:
    """What the kernels of a Euclidean mixture with padding need."""
    triton.runtime.driver.set_active(Driver(capability))
    triton_mixture._shared_memory = lambda device: 1024 * SHARED_MEMORY[capability]
    needs: dict[str, Any] = {}
    triton_mixture._kernels = lambda device: SimpleNamespace(**{name: Compiled(name, needs) for name in KERNELS})
    q = k = torch.zeros(1, 16, parts * width, dtype=dtype)
    v = torch.zeros(1, 16, values, dtype=dtype)
    gate, bias, mask = torch.ones(1, parts), torch.zeros(1, parts, 16), torch.ones(1, 16, dtype=torch.bool)
    inputs = (q, k, v, gate, bias, mask)
    out, lse = triton_mixture._mixture(*inputs, 1.0)
    triton_mixture._mixture_backward(out, *inputs, lse, 1.0)
    return needs


if __name__ == "__main__":
    dtype, *sizes = sys.argv[1:]
    print(json.dumps(compile_all(getattr(torch, dtype), *map(int, sizes))))
