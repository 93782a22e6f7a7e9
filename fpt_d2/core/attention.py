"""Attention between two sets of positions: the similarities and the mixture of softmaxes of the FPT paper.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .chunked import chunked_mixture_attention

SOFTMAX_SIMILARITIES = ("euclidean", "embedded")
IMPLEMENTATIONS = ("auto", "chunked", "sdpa", "reference")


def mixture_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    similarity: str = "embedded",
    key_mask: Optional[Tensor] = None,
    scale: Optional[float] = None,
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
        similarity: "embedded" or "euclidean".
        key_mask: (B, K) bool, False where a key is padding; at least one True in each row. None: all are valid.
        scale: of the scores, in the place of 1 / sqrt(D).
        impl: "auto" takes "chunked" on the CPU and "sdpa" on other devices and wherever the graph is recorded
            (torch.compile, torch.export, torch.jit.trace); "reference" stores every score.

    Returns:
        (B, Q, V) in the dtype of ``v``; scores and softmax are float32 or wider.

    Raises:
        ValueError: unknown similarity or impl, or channels that N does not divide.
    """
    _check(q, gate, similarity, impl)
    if impl == "auto":
        impl = "sdpa" if _is_recorded() or q.device.type != "cpu" else "chunked"
    if impl == "reference":
        return reference.mixture_attention(q, k, v, gate, similarity=similarity, key_mask=key_mask, scale=scale)
    scale = (q.shape[2] // gate.shape[1]) ** -0.5 if scale is None else scale
    if impl == "sdpa":
        return _sdpa(q, k, v, gate, similarity, key_mask, scale)
    bias = _key_bias(k, gate.shape[1], scale, similarity, key_mask)
    return chunked_mixture_attention(q, k, v, gate, bias=bias, scale=2 * scale if similarity == "euclidean" else scale)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, key_mask: Optional[Tensor] = None) -> Tensor:
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


def linear_context(k: Tensor, v: Tensor, *, key_mask: Optional[Tensor] = None) -> Tensor:
    """What :func:`linear_attention` multiplies every query with, ``k^T v / K``: (B, C, V), float32 or wider."""
    with torch.autocast(k.device.type, enabled=False):  # the sum over all keys would overflow float16
        dtype = torch.promote_types(k.dtype, torch.float32)
        k, v = k.to(dtype), v.to(dtype)
        if key_mask is None:
            return k.transpose(1, 2) @ v / k.shape[1]
        return (k * _mean_weights(key_mask, dtype).unsqueeze(2)).transpose(1, 2) @ v


def mixture_gate(k: Tensor, weight: Tensor, *, key_mask: Optional[Tensor] = None) -> Tensor:
    """Weights of the parts, ``softmax_n(w_n . mean_j k_j)`` (paper; the authors' code takes the mean of q).

    Args:
        k: (B, K, C). weight: (N, C). key_mask: (B, K) bool or None; the mean runs over the valid keys.

    Returns:
        (B, N), float32 or wider.
    """
    with torch.autocast(k.device.type, enabled=False):
        k = k.to(torch.promote_types(k.dtype, torch.float32))
        mean = k.mean(1) if key_mask is None else (_mean_weights(key_mask, k.dtype).unsqueeze(1) @ k).squeeze(1)
        return F.softmax(F.linear(mean, weight.to(k.dtype)), dim=-1)


def _mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, K) weights that average over the valid keys."""
    return mask.to(dtype) / mask.sum(1, keepdim=True).clamp(min=1)


def _is_recorded() -> bool:
    """A custom autograd function cannot be recorded into a graph; plain operators can."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


def _check(q: Tensor, gate: Tensor, similarity: str, impl: str) -> None:
    if similarity not in SOFTMAX_SIMILARITIES:
        raise ValueError(f"similarity is {similarity!r}; allowed: {', '.join(SOFTMAX_SIMILARITIES)}")
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl is {impl!r}; allowed: {', '.join(IMPLEMENTATIONS)}")
    if q.shape[2] % gate.shape[1] != 0:
        raise ValueError(f"{q.shape[2]} channels cannot be cut into {gate.shape[1]} equal parts")


def _key_bias(k: Tensor, num_parts: int, scale: float, similarity: str, key_mask: Optional[Tensor]) -> Optional[Tensor]:
    """(B, N or 1, K) or None: -inf at padding, and for the Euclidean form -|k|^2 (|q|^2 cancels in the softmax)."""
    if similarity == "embedded" and key_mask is None:
        return None
    dtype = torch.promote_types(k.dtype, torch.float32)
    bias = k.new_zeros(k.shape[0], 1, k.shape[1], dtype=dtype)
    if similarity == "euclidean":
        bias = -scale * k.to(dtype).unflatten(2, (num_parts, -1)).square().sum(3).transpose(1, 2)
    if key_mask is not None:
        bias = bias.masked_fill(~key_mask.unsqueeze(1), float("-inf"))
    return bias


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, similarity: str, key_mask: Optional[Tensor], scale: float
) -> Tensor:
    """The mixture as N heads of torch's fused attention and their sum: attention is linear in its parts."""
    num_parts, width = gate.shape[1], v.shape[2]
    q, k = (t.unflatten(2, (num_parts, -1)).transpose(1, 2) for t in (q, k))  # (B, N, Q or K, D)
    if similarity == "euclidean":
        q, k = _euclidean_as_dot(q, k)
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


def _widen(t: Tensor, width: int) -> Tensor:
    """Zeros behind the last dimension; not by F.pad alone, which copies even where there is nothing to pad."""
    return t if t.shape[3] == width else F.pad(t, (0, width - t.shape[3]))


def _euclidean_as_dot(q: Tensor, k: Tensor) -> Tuple[Tensor, Tensor]:
    """``2 q.k - |k|^2`` as a dot product over two more channels.

    |k|^2 is split into a rounded value and the rest, else bfloat16 would lose it; in units of 16, else float16 would
    overflow at 65504; as channels and not as a mask, because a mask's gradient would be a Q x K matrix.
    """
    norm = k.to(torch.promote_types(k.dtype, torch.float32)).square().sum(-1, keepdim=True) / 16
    high = norm.to(k.dtype)
    low = (norm - high.to(norm.dtype)).to(k.dtype)
    unit = torch.full_like(q[..., :1], 16)
    return torch.cat((2 * q, unit, unit), -1), torch.cat((k, -high, -low), -1)
