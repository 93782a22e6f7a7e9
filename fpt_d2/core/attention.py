"""Attention between two sets of positions: the mixture of softmaxes of the FPT paper, and attention without a softmax.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .arguments import check_argument, one_of
from .chunked import chunked_mixture_attention
from .level import is_recorded
from .similarity import SIMILARITIES, mean_weights

IMPLEMENTATIONS = ("auto", "chunked", "sdpa", "reference")


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
        impl: "auto" takes "chunked" on the CPU and "sdpa" on other devices and wherever the graph is recorded
            (torch.compile, torch.export, torch.jit.trace); "reference" stores every score. Forward-mode derivatives
            (torch.func.jvp) need "reference"; all other derivatives are right with each.

    Returns:
        (B, Q, V) in the dtype of ``v``; scores and softmax are float32 or wider.

    Raises:
        ValueError: unknown similarity or impl, or channels that N does not divide.
    """
    check_argument("similarity", similarity, similarity in SIMILARITIES, one_of(SIMILARITIES))
    check_argument("impl", impl, impl in IMPLEMENTATIONS, one_of(IMPLEMENTATIONS))
    num_parts, channels = gate.shape[1], q.shape[2]
    if channels % num_parts != 0:
        raise ValueError(f"{channels} channels cannot be cut into {num_parts} equal parts")
    scale = (channels // num_parts) ** -0.5 if scale is None else scale
    if impl == "reference":
        return reference.mixture_attention(q, k, v, gate, similarity=similarity, key_mask=key_mask, scale=scale)
    bias, as_dot_product = None, SIMILARITIES[similarity]
    if as_dot_product is not None:
        q, k, bias = as_dot_product(q, k, num_parts, key_mask)
    if impl == "sdpa" or (impl == "auto" and (is_recorded() or q.device.type != "cpu")):
        return _sdpa(q, k, v, gate, bias, key_mask, scale)
    if key_mask is not None:
        padding = q.new_zeros(k.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
        padding = padding.masked_fill(~key_mask, float("-inf")).unsqueeze(1)
        bias = padding if bias is None else bias + padding
    return chunked_mixture_attention(q, k, v, gate, bias=bias, scale=scale)


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


def mixture_gate(k: Tensor, weight: Tensor, *, key_mask: Tensor | None = None) -> Tensor:
    """Weights of the parts, ``softmax_n(w_n . mean_j k_j)`` (paper; the authors' code takes the mean of q).

    Args:
        k: (B, K, C). weight: (N, C). key_mask: (B, K) bool or None; the mean runs over the valid keys.

    Returns:
        (B, N), float32 or wider.
    """
    with torch.autocast(k.device.type, enabled=False):
        k = k.to(torch.promote_types(k.dtype, torch.float32))
        mean = k.mean(1) if key_mask is None else (mean_weights(key_mask, k.dtype).unsqueeze(1) @ k).squeeze(1)
        return F.softmax(F.linear(mean, weight.to(k.dtype)), dim=-1)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None, scale: float
) -> Tensor:
    """The mixture as N heads of torch's fused attention and their sum: attention is linear in its parts."""
    num_parts, width = gate.shape[1], v.shape[2]
    if bias is not None:
        q, k = _with_bias_channels(q, k, bias, v.dtype)
    else:
        q, k = (t.unflatten(2, (num_parts, -1)).transpose(1, 2) for t in (q, k))  # (B, N, Q or K, D)
    mask = None
    if key_mask is not None:  # float, and left for torch to broadcast: a bool one would be written out for every query
        mask = q.new_zeros(q.shape[0], 1, 1, k.shape[2]).masked_fill(~key_mask[:, None, None, :], float("-inf"))
    values = v.to(q.dtype).unsqueeze(1).expand(-1, num_parts, -1, -1)
    # Fused kernels want q, k and v of one width on the CPU, of multiples of 8 on CUDA; without one of them torch would
    # store the whole matrix, and not say so.
    key_width, value_width = -(-q.shape[3] // 8) * 8, -(-width // 8) * 8
    if q.device.type == "cpu":
        key_width = value_width = max(key_width, value_width)
    q, k, values = _widen(q, key_width), _widen(k, key_width), _widen(values, value_width)
    with torch.autocast(q.device.type, enabled=False):  # it would round float32 inputs
        heads = F.scaled_dot_product_attention(q, k, values, attn_mask=mask, scale=scale)[..., :width]
    return (heads * gate[:, :, None, None].to(heads.dtype)).sum(1).to(v.dtype)


def _with_bias_channels(q: Tensor, k: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """q and k in N parts and ``dtype``, with the bias as two more channels of each: (B, N, Q or K, D + 2).

    As channels and not as a mask, because a mask's gradient would be a Q x K matrix; as a rounded value and the rest,
    else bfloat16 would lose it; in a unit that grows with it, else float16 would overflow.
    """
    q, k = (t.unflatten(2, (bias.shape[1], -1)).transpose(1, 2).to(dtype) for t in (q, k))
    bias = bias.unsqueeze(3)
    unit = torch.ones_like(bias[:, :, :1])
    if dtype not in (torch.float32, torch.float64):
        unit = (bias.detach().abs().amax((1, 2), keepdim=True) / 1024).clamp(min=1).to(dtype).to(bias.dtype) * unit
    bias = bias / unit
    high = bias.to(dtype)
    low = (bias - high.to(bias.dtype)).to(dtype)
    units = unit.to(dtype).expand(*q.shape[:3], 1)
    return torch.cat((q, units, units), -1), torch.cat((k, high, low), -1)


def _widen(t: Tensor, width: int) -> Tensor:
    """Zeros behind the last dimension; not by F.pad alone, which copies even where there is nothing to pad."""
    return t if t.shape[3] == width else F.pad(t, (0, width - t.shape[3]))
