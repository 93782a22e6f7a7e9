"""Products of float32 matrices on the CPU, by the faster of two libraries that PyTorch comes with.

PyTorch multiplies by MKL, which takes AVX-512 on Intel's processors alone. oneDNN, by which PyTorch convolves, takes it
on AMD's too, and is twice as fast there. The sums are the same, in another order.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Fewer multiply-adds than this are not worth the call.
MIN_WORK = 2**18
# Of a product that is added to another, so many rows are computed at once.
ROWS = 1024


def product(a: Tensor, b: Tensor, buffer: Tensor | None = None) -> Tensor:
    """``a @ b``, without derivatives.

    Args:
        a: (G, M, K). b: (G, K, N). Of any strides; on the CPU.
        buffer: (G, M, N), overwritten: the result may be in it.

    Returns:
        (G, M, N).
    """
    if not _by_onednn(a, b):
        return torch.bmm(a, b, out=buffer)
    products = [_onednn_product(*pair) for pair in zip(a, b)]
    return products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products, out=buffer)


def add_product(out: Tensor, a: Tensor, b: Tensor) -> None:
    """``out += a @ b``, in the shapes of :func:`product`, without derivatives."""
    if not _by_onednn(a, b):
        torch.baddbmm(out, a, b, out=out)
        return
    for whole, left, right in zip(out, a, b):
        for rows, some in zip(whole.split(ROWS), left.split(ROWS)):
            rows += _onednn_product(some, right)


def _by_onednn(a: Tensor, b: Tensor) -> bool:
    is_worth_it = len(a) > 0 and a.shape[1] * a.shape[2] * b.shape[2] >= MIN_WORK
    return is_worth_it and a.dtype == torch.float32 and onednn_is_faster()


def _onednn_product(a: Tensor, b: Tensor) -> Tensor:
    if not (b.is_contiguous() or b.t().is_contiguous()):  # with gaps between its rows it takes a thousand times as long
        b = b.contiguous()
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")
    return product


@cache
def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and a PyTorch with MKL and with oneDNN's product."""
    if not (torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return False
    try:
        processors = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:  # not Linux
        return False
    return "AuthenticAMD" in processors and torch.backends.cpu.get_cpu_capability() == "AVX512"
