"""The mixture of softmaxes by torch's fused attention, with a head for each part.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_mixture(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None, scale: float
) -> Tensor:
    """The mixture as N heads of torch's fused attention and their sum: attention is linear in its parts."""
    num_parts, width = gate.shape[1], v.shape[2]
    if bias is not None:
        q, k = _with_bias_channels(q, k, bias, v.dtype)
    else:
        q, k = (_parts(t, num_parts) for t in (q, k))
    mask = None
    if key_mask is not None:  # float, and left for torch to broadcast: a bool one would be written out for every query
        padding = ~key_mask[:, None, None, :]
        mask = torch.zeros_like(padding, dtype=q.dtype).masked_fill(padding, float("-inf"))
    values = v.to(q.dtype).unsqueeze(1).expand(-1, num_parts, -1, -1)
    # Fused kernels want q, k and v of one width on the CPU, of multiples of 8 on CUDA; without one of them torch would
    # store the whole matrix, and not say so. Not by -(-n // 8): ONNX rounds a negative quotient towards 0.
    key_width, value_width = ((n + 7) // 8 * 8 for n in (q.shape[3], width))
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
    q, k = (_parts(t, bias.shape[1]).to(dtype) for t in (q, k))
    bias = bias.unsqueeze(3)
    unit = torch.ones_like(bias[:, :, :1])
    if dtype not in (torch.float32, torch.float64):
        unit = (bias.detach().abs().amax((1, 2), keepdim=True) / 1024).clamp(min=1).to(dtype).to(bias.dtype) * unit
    bias = bias / unit
    high = bias.to(dtype)
    low = (bias - high.to(bias.dtype)).to(dtype)
    units = unit.to(dtype).expand(*q.shape[:3], 1)
    return torch.cat((q, units, units), -1), torch.cat((k, high, low), -1)


def _parts(t: Tensor, num_parts: int) -> Tensor:
    """(B, Q or K, C) -> (B, N, Q or K, D); by unflatten an ONNX graph would keep the number of queries."""
    return t.reshape(t.shape[0], t.shape[1], num_parts, t.shape[2] // num_parts).transpose(1, 2)


def _widen(t: Tensor, width: int) -> Tensor:
    """Zeros behind the last dimension; not by F.pad alone, which copies even where there is nothing to pad."""
    return t if t.shape[3] == width else F.pad(t, (0, width - t.shape[3]))
