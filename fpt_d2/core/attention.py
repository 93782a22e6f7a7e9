"""Attention between two sets of positions: the mixture of softmaxes of the FPT paper, and attention without a softmax.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arguments import ArgumentError, one_of
from .mixture import dot_product_mixture
from .similarity import SIMILARITIES, mean_weights


def mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    similarity: str = "embedded",
    key_mask: Tensor | None = None,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Attention by a mixture of softmaxes, exact, without a Q x K matrix (FPT paper, self and grounding transformer).

    .. math:: out_i = \sum_n gate_n \sum_j softmax_j(s(q_{i,n}, k_{j,n}) / \sqrt{D}) v_j

    where q and k are cut into N parts along the channels and s is the dot product ("embedded") or the negative squared
    distance ("euclidean"). The paper states no temperature; q and k come from learned projections, so that the factor
    1 / sqrt(D) changes their start and not what they can express.

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V).
        gate: (B, N), mixture weights that sum to one; see :func:`mixture_gate`.
        similarity: one of :data:`.similarity.SIMILARITIES`.
        key_mask: (B, K) bool, False where a key is padding; at least one True in each row. None: all are valid.
        scale: of the scores, in the place of 1 / sqrt(D).
        impl: "auto" takes "chunked" for mixtures on the CPU; "triton" on a CUDA GPU for half precision and up to 256
            channels, if Triton is installed (see :mod:`.triton_mixture`); "sdpa" for all else and wherever the graph
            is recorded (torch.compile, torch.export, torch.jit.trace). "reference" stores every score, and so do
            second derivatives and torch.func.grad of "chunked" and "triton". A derivative is right or raises an error:
            forward-mode ones (torch.func.jvp) need "reference", and second ones with "sdpa" depend on the kernel that
            torch chooses.

    Returns:
        (B, Q, V) in the dtype of ``v``; scores and softmax are float32 or wider.

    Raises:
        ValueError: unknown similarity or impl, shapes that do not fit each other, no key, a scale that is not positive,
            channels that N does not divide, or what "triton" cannot compute.
    """
    if similarity not in SIMILARITIES:
        raise ArgumentError("similarity", similarity, one_of(SIMILARITIES))
    if scale is None:  # int: a tensor's root in torch.jit.trace is one of float32
        scale = (int(q.shape[2]) // int(gate.shape[1])) ** -0.5
    bias, as_dot_product = None, SIMILARITIES[similarity]
    if as_dot_product is not None:
        q, k, bias = as_dot_product(q, k, gate.shape[1], key_mask)
    return dot_product_mixture(q, k, v, gate, bias=bias, key_mask=key_mask, scale=scale, impl=impl)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """Dot-product attention without softmax, ``q_i . k_j / K`` as weights, in linear time: ``q (k^T v) / K``.

    The "dot" grounding of the authors' code. K counts the valid keys only.

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V). key_mask: (B, K) bool or None.

    Returns:
        (B, Q, V) in the dtype of ``v``.
    """
    context = linear_context(k, v, key_mask=key_mask)
    with torch.autocast(q.device.type, enabled=False):
        return (q.to(context.dtype) @ context).to(v.dtype)


def linear_context(k: Tensor, v: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """What :func:`linear_attention` multiplies every query with, ``k^T v / K``: (B, C, V), float32 or wider."""
    with torch.autocast(k.device.type, enabled=False):  # the sum over all keys would overflow float16
        dtype = torch.promote_types(k.dtype, torch.float32)
        k, v = k.to(dtype), v.to(dtype)
        if key_mask is None:
            return k.transpose(1, 2) @ v / k.shape[1]
        return (k * mean_weights(key_mask, dtype).unsqueeze(2)).transpose(1, 2) @ v
