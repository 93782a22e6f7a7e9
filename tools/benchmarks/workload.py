"""What is measured: an entry of a table makes, for a size and a device, a function to run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

LaidOut = TypeVar("LaidOut", Tensor, nn.Module)

FORWARD, TRAIN = "forward", "training step"
MODES = (FORWARD, TRAIN)


@dataclass(frozen=True)
class Setting:
    """What an entry is made for.

    Attributes:
        height, width: of the image; a kernel takes the sizes of its levels p2 and p3.
        batch: images.
        device: "cpu" or "cuda".
        dtype: of a kernel's inputs; of the autocast of a network with float32 parameters.
        channels_last: the memory format of a network's maps and kernels.
    """

    height: int
    width: int
    batch: int = 1
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False

    def level(self, stride: int) -> tuple[int, int]:
        """Height and width of the map of this stride."""
        return -(-self.height // stride), -(-self.width // stride)

    def laid_out(self, what: LaidOut) -> LaidOut:
        """Maps (B, C, H, W), or a network, in the memory format of the setting."""
        return what.to(memory_format=torch.channels_last) if self.channels_last else what

    def autocast(self) -> AbstractContextManager:
        if self.dtype in (torch.float32, torch.float64):
            return contextlib.nullcontext()
        return torch.autocast(self.device, self.dtype)


@dataclass(frozen=True)
class Workload:
    """Something to run, with its inputs and parameters allocated.

    Attributes:
        run: from "is this training" to the outputs that the backward pass starts from.
        leaves: everything that gets a gradient.
    """

    run: Callable[[bool], Sequence[Tensor]]
    leaves: Sequence[Tensor]

    def step(self, mode: str) -> None:
        """A forward pass without gradients, or a training step: a forward and a backward pass (no optimizer)."""
        if mode == FORWARD:
            with torch.no_grad():
                self.run(False)
            return
        outputs = self.run(True)
        torch.autograd.backward(outputs, [torch.ones_like(out) for out in outputs])

    def clear(self) -> None:
        """Free the gradients of the last step."""
        for leaf in self.leaves:
            leaf.grad = None


Make = Callable[[Setting], Workload]


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    Attributes:
        case: entries of one case do the same work and are measured in turn.
        name: how this one does it.
        make: allocates it; None for what has a formula only.
        outline: makes what its cost is computed from before it runs: itself, or, for what is cut into very many
            operators, the textbook form of the same work. None: its cost grows as the image area does.
        baseline: names of the entries of the same case whose time, added up, this one's is divided by.
        work_baseline: name of that whose multiply-adds this one's are divided by.
        formula: multiply-adds of a forward pass, of what is not run; a training step has three times as many.
        usual: height, width and batch where the command line names none.
    """

    case: str
    name: str
    make: Make | None
    outline: Make | None = None
    baseline: tuple[str, ...] = ()
    work_baseline: str = ""
    formula: Callable[[Setting], int] | None = None
    usual: tuple[int, int, int] | None = None
