"""Run by test_normalization.py, and by itself beside it: synchronised norms on half of a batch equal the whole's."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fpt_d2.core import Level, RenderingTransformer, ValidSizes

FINE, COARSE = (8, 10), (4, 5)
SIZES = [(8, 10), (8, 10), (6, 4), (3, 10)]  # nothing of the first process is padded
OURS = [slice(0, 2), slice(2, 4)]


class DetectronsSyncNorm(nn.BatchNorm2d):
    """Stands for Detectron2's NaiveSyncBatchNorm, a BatchNorm2d too."""


def train(norm: type[nn.Module], rows: slice) -> tuple[Any, ...]:
    """One step on some of the images: the branch, its output, and the gradients of both maps and all parameters."""
    torch.manual_seed(0)
    branch = RenderingTransformer(4, num_halvings=1, norm=norm).double()
    fine, coarse = (torch.randn(4, 4, *size, dtype=torch.float64) for size in (FINE, COARSE))
    fine, coarse = (t[rows].requires_grad_() for t in (fine, coarse))
    valid = ValidSizes.of(SIZES[rows], fine)
    out = branch(Level.of(coarse, valid), Level.of(fine, valid))
    gradients = torch.autograd.grad(out.sin().sum(), (fine, coarse, *branch.parameters()))
    return branch, out, gradients[:2], gradients[2:]


def take_part(meeting: str, rank: int) -> None:
    """One of two processes, which meet at a file."""
    alone = train(nn.BatchNorm2d, slice(0, 4))
    options = {"init_method": f"file://{meeting}", "timeout": timedelta(seconds=60)}
    dist.init_process_group("gloo", rank=rank, world_size=2, **options)
    try:
        for norm in (nn.SyncBatchNorm, DetectronsSyncNorm):
            check(train(norm, OURS[rank]), alone, OURS[rank])
    finally:
        dist.destroy_process_group()


def check(ours: tuple[Any, ...], alone: tuple[Any, ...], rows: slice) -> None:
    (branch, out, to_maps, to_parameters), (whole, whole_out, whole_to_maps, whole_to_parameters) = ours, alone
    for a, b in zip((out, *to_maps), (whole_out, *whole_to_maps)):
        torch.testing.assert_close(a, b[rows], rtol=1e-11, atol=1e-12)
    for gradient, of_all in zip(to_parameters, whole_to_parameters):
        dist.all_reduce(gradient)
        torch.testing.assert_close(gradient, of_all, rtol=1e-11, atol=1e-12)
    for name, value in branch.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=1e-12, atol=1e-13)


if __name__ == "__main__":
    take_part(sys.argv[1], int(sys.argv[2]))
