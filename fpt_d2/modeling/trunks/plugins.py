"""Attention for trunks: non-local, global context, attention augmentation. Each starts as if it were absent.

Shape legend: B batch, C channels, H x W map, N heads, D key channels of a head. A mask is (B, H, W) bool, False where a
position is padding, or None where there is none.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core import linear_attention, mixture_attention
from ...core.arguments import check_argument, one_of
from ...core.level import to_tokens

NON_LOCAL_SIMILARITIES = ("embedded", "dot")


class NonLocal(nn.Module):
    r"""The non-local block (Wang et al., Non-local Neural Networks, CVPR 2018), in memory linear in the map.

    .. math:: z_i = x_i + W_z \sum_j w_{ij} W_g x_j

    with w the softmax over j of the embedded dot product ("embedded"; divided by the root of its width, as in the
    authors' code), or that product over the number of positions ("dot").
    """

    def __init__(self, channels: int, *, inner_channels: int | None = None, similarity: str = "embedded") -> None:
        """
        Args:
            channels: of the input and the output.
            inner_channels: of queries, keys and values; half of ``channels`` as in the paper.
            similarity: "embedded" or "dot".

        Raises:
            ValueError: unknown similarity.
        """
        super().__init__()
        known = similarity in NON_LOCAL_SIMILARITIES
        check_argument("non_local_similarity", similarity, known, one_of(NON_LOCAL_SIMILARITIES))
        inner = inner_channels or max(channels // 2, 1)
        self.similarity = similarity
        self.query, self.value = (nn.Linear(channels, inner) for _ in range(2))
        # A softmax over the keys does not see what is the same for all of them.
        self.key = nn.Linear(channels, inner, bias=similarity == "dot")
        # The paper starts the scale of a norm here at zero; a norm that is always the identity's is left out.
        self.out = _zero(nn.Linear(inner, channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and its mask -> (B, C, H, W)."""
        tokens = to_tokens(x)
        q, k, v = self.query(tokens), self.key(tokens), self.value(tokens)
        key_mask = None if mask is None else mask.flatten(1)
        if self.similarity == "dot":
            y = linear_attention(q, k, v, key_mask=key_mask)
        else:
            y = mixture_attention(q, k, v, _one_part(q), key_mask=key_mask)
        return x + self.out(y).transpose(1, 2).unflatten(2, x.shape[-2:])  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"similarity={self.similarity!r}"


class GlobalContext(nn.Module):
    r"""The global context block (Cao et al., GCNet, ICCV workshops 2019): every position gets the same context.

    .. math:: z_i = x_i + W_2 ReLU(LN(W_1 \sum_j softmax_j(w_k x_j) x_j))
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16) -> None:
        """
        Args:
            channels: of the input and the output.
            ratio: of the channels between ``W_1`` and ``W_2``; the paper's.
        """
        super().__init__()
        inner = max(int(channels * ratio), 1)
        self.attention = nn.Linear(channels, 1, bias=False)  # which a softmax does not see
        self.reduce, self.norm = nn.Linear(channels, inner), nn.LayerNorm(inner)
        self.out = _zero(nn.Linear(inner, channels))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and its mask -> (B, C, H, W)."""
        tokens = to_tokens(x)
        logits = self.attention(tokens).squeeze(2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if mask is not None:
            logits = logits.masked_fill(~mask.flatten(1), float("-inf"))
        context = (logits.softmax(1).to(tokens.dtype).unsqueeze(1) @ tokens).squeeze(1)
        context = self.out(F.relu(self.norm(self.reduce(context))))
        return x + context[:, :, None, None]  # type: ignore[no-any-return]


class AttentionAugmentation(nn.Module):
    r"""What attention adds to a convolution (Bello et al., Attention Augmented Convolutional Networks, ICCV 2019).

    Multi-head self-attention with relative positions, whose output is projected to the convolution's channels and added
    to it. The paper concatenates the two and makes the convolution narrower; the sum includes that, and starts as the
    convolution whose weights it was given.

    .. math:: softmax_j(q_i \cdot (k_j + r^H_{y_j - y_i} + r^W_{x_j - x_i}) / \sqrt{D}) v_j

    A score depends on the key's row and column through one of H and of W numbers of its query: with those behind the
    query, and with the row and the column as one-hot vectors behind the key, it is a dot product, and no matrix of H W
    x H W positions is ever stored.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        num_heads: int = 8,
        key_ratio: float = 0.2,
        value_ratio: float = 0.1,
        max_distance: int = 32,
    ) -> None:
        """
        Args:
            in_channels, out_channels: of the convolution.
            num_heads: 8 as in the paper.
            key_ratio, value_ratio: widths of all heads over ``out_channels``, the paper's; a head's keys have 20
                channels at least (paper), its values one.
            max_distance: positions further apart, in rows or columns, share the embedding of this distance: images have
                no fixed size in detection.
        """
        super().__init__()
        self.num_heads, self.max_distance = num_heads, max_distance
        keys = num_heads * max(20, int(out_channels * key_ratio) // num_heads)
        values = num_heads * max(1, int(out_channels * value_ratio) // num_heads)
        self.query, self.value = nn.Linear(in_channels, keys), nn.Linear(in_channels, values)
        self.key = nn.Linear(in_channels, keys, bias=False)  # which a softmax does not see
        width = keys // num_heads
        self.rows, self.columns = (
            nn.Parameter(torch.randn(2 * max_distance + 1, width) * width**-0.5) for _ in range(2)
        )
        self.out = _zero(nn.Linear(values, out_channels))

    def forward(self, x: Tensor, mask: Tensor | None = None, *, stride: int = 1) -> Tensor:
        """(B, C_in, H, W) input of the convolution, its mask -> (B, C_out, H / stride, W / stride), for its output."""
        height, width = x.shape[-2:]
        tokens = to_tokens(x)
        q, k, v = (self._split(part(tokens)) for part in (self.query, self.key, self.value))
        q = _pad_to_8(torch.cat((q, *self._position_scores(q, height, width)), 2))
        k = _pad_to_8(torch.cat((k, _one_hot_positions(height, width, k)), 2))
        key_mask = None if mask is None else mask.flatten(1).repeat_interleave(self.num_heads, dim=0)
        scale = (self.query.out_features // self.num_heads) ** -0.5
        heads = mixture_attention(q, k, v, _one_part(q), key_mask=key_mask, scale=scale)  # (B * N, H * W, V / N)
        y = self.out(heads.unflatten(0, (-1, self.num_heads)).transpose(1, 2).flatten(2))
        y = y.transpose(1, 2).unflatten(2, (height, width))
        return y if stride == 1 else F.avg_pool2d(y, 3, stride=stride, padding=1, count_include_pad=False)

    def _split(self, t: Tensor) -> Tensor:
        """(B, H * W, N * D) -> (B * N, H * W, D)."""
        return t.unflatten(2, (self.num_heads, -1)).transpose(1, 2).flatten(0, 1)  # type: ignore[no-any-return]

    def _position_scores(self, q: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The scores of every query with every row and with every column: (B * N, H * W, H) and (B * N, H * W, W)."""
        y = torch.arange(height, device=q.device).repeat_interleave(width)
        x = torch.arange(width, device=q.device).repeat(height)
        return self._scores(q, self.rows, y, height), self._scores(q, self.columns, x, width)

    def _scores(self, q: Tensor, embedding: Tensor, position: Tensor, length: int) -> Tensor:
        distance = torch.arange(length, device=q.device) - position.unsqueeze(1)  # (H * W, length)
        index = distance.clamp(-self.max_distance, self.max_distance) + self.max_distance
        scores = q @ embedding.to(q.dtype).t()
        return scores.gather(2, index.expand(q.shape[0], -1, -1))

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, max_distance={self.max_distance}"


def _one_hot_positions(height: int, width: int, like: Tensor) -> Tensor:
    """Every position's row and column, (B, H * W, H + W), for keys (B, H * W, D)."""
    rows = torch.eye(height, device=like.device, dtype=like.dtype).repeat_interleave(width, dim=0)
    columns = torch.eye(width, device=like.device, dtype=like.dtype).repeat(height, 1)
    return torch.cat((rows, columns), 1).expand(like.shape[0], -1, -1)


def _pad_to_8(t: Tensor) -> Tensor:
    """Zeros behind the last dimension, as PyTorch's kernels would add: whether it must would be part of an export."""
    length = t.shape[-1]
    return F.pad(t, (0, 8 * ((length + 7) // 8) - length))


def _one_part(q: Tensor) -> Tensor:
    """The weight of a mixture's only softmax: (B, 1)."""
    return torch.ones(q.shape[0], 1, device=q.device, dtype=torch.promote_types(q.dtype, torch.float32))


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
