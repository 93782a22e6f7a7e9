"""Similarities as dot products: ``s(q_i, k_j) = q'_i . k'_j + bias_j``, up to a term of i, which a softmax cancels.

Every path of the attention sees dot products only, so that a new similarity is one function here.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C channels, D = C / N.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# From q (B, Q, C), k (B, K, C), the number of parts and the mask (B, K) of the valid keys or None,
# to q' and k' of the same shapes and the bias (B, N, K).
Similarity = Callable[[Tensor, Tensor, int, "Tensor | None"], "tuple[Tensor, Tensor, Tensor]"]


def mean_weights(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, K) weights that average over the valid keys; all zero where there is none."""
    return mask.to(dtype) / mask.sum(1, keepdim=True).clamp(min=1)


def euclidean(q: Tensor, k: Tensor, num_parts: int, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The negative squared distance of each part, ``-|q - k|^2 = 2 q.k - |k|^2 - |q|^2`` (FPT paper, F_eud).

    ``2 q.k - |k|^2`` cancels where all have an offset in common, so the mean of the valid keys is subtracted from both
    first, which changes no distance. It is a constant: no gradient flows through it.
    """
    with torch.autocast(q.device.type, enabled=False):
        dtype = torch.promote_types(k.dtype, torch.float32)
        centre = _centre(k.detach(), key_mask, dtype)
        q, k = q - centre, k - centre  # in the dtype of the centre, in one pass over the queries
        return q, 2 * k, -k.unflatten(2, (num_parts, -1)).square().sum(3).transpose(1, 2)


def _centre(k: Tensor, key_mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(B, 1, C) mean of the valid keys, where it is larger than their spread, else zero.

    It is rounded like the keys, and left out where it is not needed, so that differences are numbers of the keys' own
    dtype: a path that computes in float16 or bfloat16 rounds nothing.
    """

    def mean(x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) if key_mask is None else mean_weights(key_mask, dtype).unsqueeze(1) @ x

    keys = k.to(dtype)
    centre = mean(keys)
    centre = centre.where(centre.abs() > mean((keys - centre).abs()), 0)
    return centre.to(k.dtype).to(dtype)


# By name. None: the dot product as it is. One's own is added here, see docs/extending.md.
SIMILARITIES: dict[str, Similarity | None] = {"euclidean": euclidean, "embedded": None}
