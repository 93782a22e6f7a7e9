"""The three transformers of the FPT paper as modules: self, grounding (global and locality-constrained), rendering.

Shape legend: B batch, N parts of the mixture, C channels, H x W target map, h x w source map. A mask is (B, H, W) bool,
False where a position is padding (see :mod:`.padding`).
"""

from typing import Callable, Optional, Tuple

import torch
from torch import Tensor, nn

from .attention import (
    IMPLEMENTATIONS,
    SOFTMAX_SIMILARITIES,
    linear_attention,
    linear_context,
    mixture_attention,
    mixture_gate,
)
from .local import local_mixture_attention
from .padding import apply_mask, masked_mean, pool_to_tokens, to_tokens

Norm = Optional[Callable[[int], nn.Module]]

SIMILARITIES = (*SOFTMAX_SIMILARITIES, "dot")


class GroundingTransformer(nn.Module):
    """Grounding Transformer: every position of a finer level gathers context from a coarser one (paper, GT and LGT).

    Query, key and value are learned linear maps; the output has the size of the finer level.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_parts: int = 4,
        similarity: str = "euclidean",
        square_size: int = 0,
        kv_stride: int = 1,
        max_kv_tokens: int = 0,
        norm: Norm = None,
        impl: str = "auto",
    ) -> None:
        """
        Args:
            channels: of both levels and of the output.
            num_parts: softmaxes in the mixture; "dot" has none and ignores it.
            similarity: "euclidean" (paper), "embedded" (dot product) or "dot" (dot product without softmax).
            square_size: 0 for the whole coarser level, or the odd side of the square around the query (LGT).
            kv_stride, max_kv_tokens: pooling of keys and values, see :func:`.padding.pool_to_tokens`.
            norm: makes the normalisation of the output from its channels; None for none.
            impl: see :func:`.attention.mixture_attention`.

        Raises:
            ValueError: a value that is not allowed, or options that exclude each other.
        """
        super().__init__()
        _check_choice("similarity", similarity, SIMILARITIES)
        _check_choice("impl", impl, IMPLEMENTATIONS)
        if num_parts < 1 or channels % num_parts != 0:
            raise ValueError(f"num_parts is {num_parts}; it must be positive and divide the {channels} channels")
        if square_size < 0 or (square_size > 0 and square_size % 2 == 0):
            raise ValueError(f"square_size is {square_size}; it must be 0 (the whole level) or odd")
        if kv_stride < 1 or max_kv_tokens < 0:
            raise ValueError(
                f"kv_stride is {kv_stride} and max_kv_tokens {max_kv_tokens}; at least 1 and 0 are allowed"
            )
        if square_size > 0 and (similarity == "dot" or kv_stride > 1):
            raise ValueError("square_size > 0 needs a softmax similarity (not 'dot') and kv_stride 1")
        self.channels, self.num_parts, self.similarity, self.square_size = channels, num_parts, similarity, square_size
        self.kv_stride, self.max_kv_tokens, self.impl = kv_stride, max_kv_tokens, impl
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        # A single softmax has weight one whatever a gate says.
        has_gate = num_parts > 1 and similarity != "dot"
        self.gate = nn.Parameter(torch.randn(num_parts, channels) * channels**-0.5) if has_gate else None
        self.norm = nn.Identity() if norm is None else norm(channels)

    def forward(self, fine: Tensor, coarse: Tensor, coarse_mask: Optional[Tensor] = None) -> Tensor:
        """(B, C, H, W) queries' level, (B, C, h, w) keys' level and its mask -> (B, C, H, W)."""
        attend = self._attend_in_square if self.square_size > 0 else self._attend
        out: Tensor = self.norm(attend(fine, coarse, coarse_mask))
        return out

    def _attend(self, fine: Tensor, coarse: Tensor, mask: Optional[Tensor]) -> Tensor:
        # A linear map commutes with the average: pooling first is the cheaper order.
        keys, mask = pool_to_tokens(coarse, mask, stride=self.kv_stride, max_tokens=self.max_kv_tokens)
        q, k, v = self.query(to_tokens(fine)), self.key(keys), self.value(keys)
        if self.similarity == "dot":
            out = linear_attention(q, k, v, key_mask=mask)
        else:
            gate = self._mixture_gate(k, mask)
            out = mixture_attention(q, k, v, gate, similarity=self.similarity, key_mask=mask, impl=self.impl)
        return out.transpose(1, 2).unflatten(2, fine.shape[-2:])

    @property
    def is_affine(self) -> bool:
        """Whether the output is an affine map of the finer level's channels, the same at every position."""
        return self.similarity == "dot" and isinstance(self.norm, nn.Identity)

    def as_affine(self, coarse: Tensor, mask: Optional[Tensor] = None) -> Tuple[Tensor, Tensor]:
        """The map that :meth:`forward` is of the finer level where :attr:`is_affine`, ``x M + c``.

        Returns:
            Matrix (B, C, C) and offset (B, C), float32 or wider.
        """
        keys, mask = pool_to_tokens(coarse, mask, stride=self.kv_stride, max_tokens=self.max_kv_tokens)
        context = linear_context(self.key(keys), self.value(keys), key_mask=mask)
        with torch.autocast(coarse.device.type, enabled=False):
            weight, bias = (t.to(context.dtype) for t in (self.query.weight, self.query.bias))
            return weight.t() @ context, bias @ context

    def _attend_in_square(self, fine: Tensor, coarse: Tensor, mask: Optional[Tensor]) -> Tensor:
        q = self.query(to_tokens(fine))
        k, v = (projection(to_tokens(coarse)) for projection in (self.key, self.value))
        gate = self._mixture_gate(k, None if mask is None else mask.flatten(1))
        q = q.transpose(1, 2).unflatten(2, fine.shape[-2:])
        k, v = (t.transpose(1, 2).unflatten(2, coarse.shape[-2:]) for t in (k, v))
        return local_mixture_attention(
            q, k, v, gate, square_size=self.square_size, similarity=self.similarity, key_mask=mask
        )

    def _mixture_gate(self, k: Tensor, mask: Optional[Tensor]) -> Tensor:
        """Weights (B, N) of the parts; the mean over the keys runs over the whole level, for LGT too."""
        if self.gate is None:
            return torch.ones(k.shape[0], 1, device=k.device, dtype=torch.promote_types(k.dtype, torch.float32))
        return mixture_gate(k, self.gate, key_mask=mask)

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, num_parts={self.num_parts}, similarity={self.similarity!r}, "
            f"square_size={self.square_size}, kv_stride={self.kv_stride}, max_kv_tokens={self.max_kv_tokens}"
        )


class SelfTransformer(GroundingTransformer):
    """Self-Transformer: every position gathers context from its own level, by dot-product similarity (paper, ST)."""

    def __init__(
        self,
        channels: int,
        *,
        num_parts: int = 2,
        kv_stride: int = 1,
        max_kv_tokens: int = 0,
        norm: Norm = None,
        impl: str = "auto",
    ) -> None:
        """Args and raises as for :class:`GroundingTransformer`."""
        super().__init__(
            channels,
            num_parts=num_parts,
            similarity="embedded",
            kv_stride=kv_stride,
            max_kv_tokens=max_kv_tokens,
            norm=norm,
            impl=impl,
        )

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:  # type: ignore[override]
        """(B, C, H, W) and its mask -> (B, C, H, W)."""
        return super().forward(x, x, mask)


class RenderingTransformer(nn.Module):
    """Rendering Transformer: a coarser level is rendered with the detail of a finer one (paper, RT).

    ``w = GAP(fine)``; ``out = conv(coarse * w) + down(fine)``, then one more 3x3 convolution if asked for.
    """

    def __init__(self, channels: int, *, num_halvings: int, final_conv: bool = True, norm: Norm = None) -> None:
        """
        Args:
            channels: of both levels and of the output.
            num_halvings: log2 of the ratio of the strides. The finer level goes through as many 3x3 convolutions of
                stride 2 (one of stride 1 for levels of one size).
            final_conv: a 3x3 convolution after the addition. The paper leaves it open.
            norm: makes the normalisation of the output from its channels; None for none.

        Raises:
            ValueError: negative ``num_halvings``.
        """
        super().__init__()
        if num_halvings < 0:
            raise ValueError(f"num_halvings is {num_halvings}; the source of rendering must be the finer level")
        self.query = nn.Conv2d(channels, channels, 3, padding=1)
        strides = [2] * num_halvings or [1]
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=s, padding=1) for s in strides)
        self.out = nn.Conv2d(channels, channels, 3, padding=1) if final_conv else None
        self.norm = nn.Identity() if norm is None else norm(channels)

    def forward(
        self,
        coarse: Tensor,
        fine: Tensor,
        coarse_mask: Optional[Tensor] = None,
        fine_mask: Optional[Tensor] = None,
    ) -> Tensor:
        """(B, C, h, w) level to render, (B, C, H, W) finer level and their masks -> (B, C, h, w).

        Both levels come with zeros in the padding, as :class:`.pyramid.PyramidTransform` hands them over.
        """
        out = self.query(coarse * masked_mean(fine, fine_mask)) + self._shrink(fine, coarse.shape[-2:], fine_mask)
        if self.out is not None:
            out = self.out(apply_mask(out, coarse_mask))
        rendered: Tensor = self.norm(out)
        return rendered

    def _shrink(self, fine: Tensor, size: torch.Size, mask: Optional[Tensor]) -> Tensor:
        for i, conv in enumerate(self.down):
            # A convolution leaves its bias in the padding, which the next one would carry into the image.
            fine = conv(fine if i == 0 else apply_mask(fine, mask))
            mask = None if mask is None or conv.stride == (1, 1) else mask[:, ::2, ::2]
        if fine.shape[-2:] != size:  # a trunk that rounds odd sizes down
            fine = nn.functional.interpolate(fine, size=size, mode="bilinear", align_corners=False)
        return fine


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(map(repr, allowed))}")
