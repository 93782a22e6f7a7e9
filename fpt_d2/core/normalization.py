"""Normalisations whose statistics leave out the padding of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def masked_norm(norm: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """``norm(x)`` with statistics over the valid positions alone.

    Group norm and instance norm take them from each image. Batch norm in training takes them from the batch, its
    running statistics included, and any of its synchronised forms from the batches of all processes. Where there is
    padding to leave out, such a norm's parameters are used and it is not called: hooks on it do not run. Every other
    norm, and batch norm in inference, computes each position by itself and is called as it is.

    Args:
        norm: of C channels.
        x: (B, C, H, W).
        mask: (B, 1, H, W) bool, False in the padding, or None where there is none.

    Returns:
        (B, C, H, W); its values in the padding mean nothing.
    """
    if isinstance(norm, (nn.GroupNorm, nn.InstanceNorm2d)) and mask is not None:
        return _group_norm(norm, x, mask, norm.num_groups if isinstance(norm, nn.GroupNorm) else x.shape[1])
    if isinstance(norm, _BatchNorm):
        # All processes must take part in a synchronised norm in the same way, whether or not their images are padded.
        synchronised = _is_synchronised(norm)
        if (norm.training or norm.running_mean is None) and (mask is not None or synchronised):
            return _batch_norm(norm, x, x.new_ones(1, 1, 1, 1) if mask is None else mask, synchronised)
        if len(x) == 1:
            x = x.contiguous()  # PyTorch 2.14's derivative is wrong on the CPU for one image in another layout
    out: Tensor = norm(x)
    return out


def _is_synchronised(norm: _BatchNorm) -> bool:
    """Torch's SyncBatchNorm or Detectron2's, which have no class in common, where there are processes."""
    is_one = any("Sync" in parent.__name__ for parent in type(norm).__mro__)
    return is_one and norm.training and dist.is_available() and dist.is_initialized()


def _group_norm(norm: nn.GroupNorm | nn.InstanceNorm2d, x: Tensor, mask: Tensor, num_groups: int) -> Tensor:
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(1, (num_groups, -1))
    mask = mask.unsqueeze(1)  # (B, 1, 1, H, W)
    count = mask.sum((2, 3, 4), keepdim=True) * groups.shape[2]
    mean = groups.masked_fill(~mask, 0).sum((2, 3, 4), keepdim=True) / count
    centred = groups - mean
    variance = centred.masked_fill(~mask, 0).square().sum((2, 3, 4), keepdim=True) / count
    return _affine(norm, (centred * (variance + norm.eps).rsqrt()).flatten(1, 2)).to(x.dtype)


def _batch_norm(norm: _BatchNorm, x: Tensor, mask: Tensor, synchronised: bool) -> Tensor:
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    mask = mask.to(values.dtype).expand(x.shape[0], 1, *x.shape[2:])
    sums = torch.cat(((values * mask).sum((0, 2, 3)), mask.sum().view(1)))
    if synchronised:
        sums = _all_sum(sums, getattr(norm, "process_group", None))
    total, count = sums[:-1], sums[-1]
    mean = total / count.clamp(min=1)
    centred = values - mean[:, None, None]
    squares = (centred.square() * mask).sum((0, 2, 3))
    if synchronised:
        squares = _all_sum(squares, getattr(norm, "process_group", None))
    variance = squares / count.clamp(min=1)
    if norm.training and norm.running_mean is not None:
        _update_running(norm, mean.detach(), (squares / (count - 1).clamp(min=1)).detach(), count > 0)
    return _affine(norm, centred * (variance + norm.eps).rsqrt()[:, None, None]).to(x.dtype)


class _AllSum(torch.autograd.Function):
    """The sum over all processes, whose derivative is one too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group, total = group, x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor) -> tuple[Tensor, None]:
        return _all_sum(grad_total, ctx.group), None


def _all_sum(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total: Tensor = _AllSum.apply(x, group)
    return total


@torch.no_grad()
def _update_running(norm: _BatchNorm, mean: Tensor, variance: Tensor, has_any: Tensor) -> None:
    """As batch norm does, but not by a batch without a position."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    momentum = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.to(norm.running_mean)
    momentum = momentum * has_any.to(norm.running_mean)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), momentum)


def _affine(norm: nn.GroupNorm | nn.InstanceNorm2d | _BatchNorm, x: Tensor) -> Tensor:
    if norm.affine:
        x = x * norm.weight[:, None, None] + norm.bias[:, None, None]
    return x
