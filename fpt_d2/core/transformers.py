"""The three transformers of the FPT paper as modules: self, grounding (global, local, linear), rendering.

They are siblings with one contract: ``branch(target, source)`` takes the :class:`.level.Level` that it contributes to
and the one that it reads, and returns a map (B, C, H, W) of the target's size with zeros in its padding.

Shape legend: B batch, N parts of the mixture, C channels, H x W target map, h x w source map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .arguments import check_argument, one_of
from .attention import linear_attention, linear_context
from .level import Level
from .local import local_mixture_attention
from .mixture import IMPLEMENTATIONS, dot_product_mixture, mixture_gate
from .similarity import SIMILARITIES
from .winograd import convolve

# From channels to a normalisation; None for none.
Norm = Callable[[int], nn.Module] | None

TEMPERATURES = ("parts", "channels")
GATES = ("paper", "normalized", "authors")

# What a learned temperature multiplies the cosine of query and key with: at the start, and at most, which keeps a
# softmax that has become one-hot from growing on.
START_LOGIT_SCALE = 10.0
MAX_LOGIT_SCALE = 100.0
# Added to a mean square before its root: far below that of any features, and a part of zeros has a finite derivative.
UNIT_EPS = 1e-12


class Branch(nn.Module):
    """What the transformers share: the normalisation of the output, and zeros in its padding."""

    def __init__(self, channels: int, norm: Norm) -> None:
        """
        Args:
            channels: of both levels and of the output.
            norm: makes the normalisation of the output from its channels; None for none.
        """
        super().__init__()
        self.channels, self.residual = channels, False
        # Compute the output before its norm again in the backward pass instead of keeping its activations. A norm must
        # not see its batch twice: a branch with another one inside cannot.
        self.recompute, self.can_recompute = False, True
        # Allow Winograd's algorithm for the 3x3 convolutions inside.
        self.winograd = False
        self.norm = None if norm is None else norm(channels)

    def forward(self, target: Level, source: Level) -> Tensor:
        """
        Args:
            target: (B, C, H, W). source: (B, C, h, w).

        Returns:
            (B, C, H, W), zero in the padding of ``target``.
        """
        if self.recompute and torch.is_grad_enabled():
            out = checkpoint(self._transform_again, target, source, use_reentrant=False)
        else:
            out = self.transform(target, source)
        if self.norm is not None:
            out = target.normalize(self.norm, out)
        if self.residual:
            out = target.map + out
        return out if target.mask is None else target.without_padding(out)

    def transform(self, target: Level, source: Level) -> Tensor:
        """The output before its normalisation, of any values in the padding."""
        raise NotImplementedError

    def _transform_again(self, target: Level, source: Level) -> Tensor:
        """What a level has computed once is computed again too."""
        return self.transform(target.again(), source.again())


class Attention(NamedTuple):
    """What a mixture of softmaxes over dot products is computed from; see :func:`.mixture.dot_product_mixture`.

    Attributes:
        q: (B, Q, C). k: (B, K, C). v: (B, K, C). gate: (B, N). bias: (B, N, K) or None.
        mask: (B, K) bool, False where a key is padding, or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor
    bias: Tensor | None
    mask: Tensor | None


class MixtureTransformer(Branch):
    """Attention of a target's positions to a source's by a mixture of softmaxes; query, key and value are linear.

    With ``qk_norm`` the scores are ``exp(t_n) cos(q_n, k_n)`` with a learned t for each part: the attention is then as
    sharp for small features as for large ones, while without it the sharpness goes with the square of their scale. In
    every second part (a lone one too) the key starts as a copy of the query, so that it looks for what is alike; the
    others start anywhere, so that they can come to look for something else, which copies hardly learn.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_parts: int,
        similarity: str,
        qk_norm: bool = False,
        kv_stride: int = 1,
        max_kv_tokens: int = 0,
        norm: Norm = None,
        impl: str = "auto",
    ) -> None:
        """
        Args:
            channels: of both levels and of the output.
            num_parts: softmaxes in the mixture.
            similarity: "euclidean" (negative squared distance) or "embedded" (dot product).
            qk_norm: normalise query and key in each part and learn a temperature, see above. Both similarities are
                then the cosine: the squared distance of vectors of one length is a constant less their product.
            kv_stride, max_kv_tokens: pooling of keys and values, see :meth:`.level.Level.tokens`.
            norm: makes the normalisation of the output from its channels; None for none.
            impl: see :func:`.attention.mixture_attention`.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__(channels, norm)
        divides = num_parts > 0 and channels % num_parts == 0
        check_argument("num_parts", num_parts, divides, f"a positive divisor of the {channels} channels")
        check_argument("similarity", similarity, similarity in SIMILARITIES, one_of(SIMILARITIES))
        check_argument("impl", impl, impl in IMPLEMENTATIONS, one_of(IMPLEMENTATIONS))
        _check_pooling(kv_stride, max_kv_tokens)
        self.num_parts, self.similarity, self.impl = num_parts, similarity, impl
        self.kv_stride, self.max_kv_tokens = kv_stride, max_kv_tokens
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        # A single softmax has weight one whatever a gate says.
        self.gate = nn.Parameter(torch.randn(num_parts, channels) * channels**-0.5) if num_parts > 1 else None
        self.scale = (channels // num_parts) ** -0.5
        self.logit_scale: nn.Parameter | None = None
        if qk_norm:
            self.logit_scale = nn.Parameter(torch.full((num_parts,), math.log(START_LOGIT_SCALE)))
            self._start_scores()
        self.project: nn.Conv2d | None = None

    @torch.no_grad()
    def _start_scores(self) -> None:
        keys, queries = (linear.weight.unflatten(0, (self.num_parts, -1)) for linear in (self.key, self.query))
        alike = slice((self.num_parts - 1) % 2, None, 2)  # the last part, and every second one before it
        keys[alike] = queries[alike]
        # Beside small features a bias would be all there is.
        self.query.bias.zero_()
        self.key.bias.zero_()

    def transform(self, target: Level, source: Level) -> Tensor:
        q, k, v, gate, bias, mask = self.attention(target, source)
        out = dot_product_mixture(q, k, v, gate, bias=bias, key_mask=mask, scale=self.scale, impl=self.impl)
        out = out.transpose(1, 2).unflatten(2, target.map.shape[-2:])
        return out if self.project is None else self.project(out)  # type: ignore[no-any-return]

    def attention(self, target: Level, source: Level) -> Attention:
        """What the output is computed from: its weights are those of the scores ``scale (q_n . k_n + bias_n)``."""
        # A linear map commutes with the average: pooling first is the cheaper order.
        pools = self.kv_stride > 1 or self.max_kv_tokens > 0
        keys, mask = source.tokens(self.kv_stride, self.max_kv_tokens) if pools else source.positions
        q, k = self.query_and_key(target.positions[0], keys)
        bias, key, as_dot_product = None, k, SIMILARITIES[self.similarity]
        if as_dot_product is not None and self.logit_scale is None:
            q, key, bias = as_dot_product(q, k, self.num_parts, mask)
        return Attention(q, key, self.value(keys), mixture_gate(k, self.gate, key_mask=mask), bias, mask)

    def query_and_key(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Of positions (B, Q, C) and (B, K, C)."""
        q, k = self.query(queries), self.key(keys)
        if self.logit_scale is None:
            return q, k
        factor = self.logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp() * self.scale
        return _unit_rms(q, self.num_parts, factor), _unit_rms(k, self.num_parts)

    def extra_repr(self) -> str:
        return (
            f"channels={self.channels}, num_parts={self.num_parts}, similarity={self.similarity!r}, "
            f"qk_norm={self.logit_scale is not None}, kv_stride={self.kv_stride}, max_kv_tokens={self.max_kv_tokens}"
        )


class SelfTransformer(MixtureTransformer):
    """Self-Transformer: every position gathers context from its own level, by dot-product similarity (paper, ST)."""

    def __init__(
        self,
        channels: int,
        *,
        num_parts: int = 2,
        residual: bool = False,
        temperature: str = "parts",
        **options: Any,
    ) -> None:
        """
        Args:
            residual: add the input to the normalised output, which goes through one more linear map first (authors'
                code); False is the paper.
            temperature: of the softmaxes: "parts" is the root of the channels of a part, "channels" that of all, for
                every part (authors' code).
            channels, num_parts, options: as for :class:`MixtureTransformer`.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__(channels, num_parts=num_parts, similarity="embedded", **options)
        check_argument("temperature", temperature, temperature in TEMPERATURES, one_of(TEMPERATURES))
        is_free = temperature == "parts" or self.logit_scale is None
        check_argument("temperature", temperature, is_free, "'parts' with normalised query and key")
        if temperature == "channels":
            self.scale = channels**-0.5
        self.residual = residual
        if residual:
            self.project = nn.Conv2d(channels, channels, 1)


class GroundingTransformer(MixtureTransformer):
    """Grounding Transformer: every position of a finer level gathers context from a coarser one (paper, GT)."""

    def __init__(self, channels: int, *, num_parts: int = 4, similarity: str = "euclidean", **options: Any) -> None:
        """Args and raises as for :class:`MixtureTransformer`; the defaults are the paper's."""
        super().__init__(channels, num_parts=num_parts, similarity=similarity, **options)


class LocalGroundingTransformer(MixtureTransformer):
    """Locality-constrained grounding: a position meets those of a square around its own place (paper, LGT)."""

    def __init__(
        self,
        channels: int,
        *,
        square_size: int,
        num_parts: int = 4,
        similarity: str = "euclidean",
        qk_norm: bool = False,
        norm: Norm = None,
    ) -> None:
        """
        Args:
            square_size: odd side of the square, in positions of the coarser level.
            channels, num_parts, similarity, qk_norm, norm: as for :class:`MixtureTransformer`.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__(channels, num_parts=num_parts, similarity=similarity, qk_norm=qk_norm, norm=norm)
        check_argument("square_size", square_size, square_size > 0 and square_size % 2 == 1, "an odd number above 0")
        self.square_size = square_size

    def transform(self, target: Level, source: Level) -> Tensor:
        """The weights of the parts come from the whole level's mean key."""
        keys, key_mask = source.positions
        q, k = self.query_and_key(target.positions[0], keys)
        v, gate = self.value(keys), mixture_gate(k, self.gate, key_mask=key_mask)
        mask = None if source.mask is None else source.mask.squeeze(1)
        q = q.transpose(1, 2).unflatten(2, target.map.shape[-2:])
        k, v = (t.transpose(1, 2).unflatten(2, source.map.shape[-2:]) for t in (k, v))
        return local_mixture_attention(
            q,
            k,
            v,
            gate,
            square_size=self.square_size,
            similarity=self.similarity if self.logit_scale is None else "embedded",
            key_mask=mask,
            ratio=source.stride // target.stride if source.stride and target.stride else None,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, square_size={self.square_size}"


class LinearGroundingTransformer(Branch):
    """Grounding by the dot product over the number of positions, without a softmax, in linear time (authors' code)."""

    def __init__(self, channels: int, *, kv_stride: int = 1, max_kv_tokens: int = 0, norm: Norm = None) -> None:
        """Args and raises as for :class:`MixtureTransformer`."""
        super().__init__(channels, norm)
        _check_pooling(kv_stride, max_kv_tokens)
        self.kv_stride, self.max_kv_tokens = kv_stride, max_kv_tokens
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def transform(self, target: Level, source: Level) -> Tensor:
        keys, mask = source.tokens(self.kv_stride, self.max_kv_tokens)
        out = linear_attention(self.query(target.positions[0]), self.key(keys), self.value(keys), key_mask=mask)
        return out.transpose(1, 2).unflatten(2, target.map.shape[-2:])  # type: ignore[no-any-return]

    def as_affine(self, source: Level) -> tuple[Tensor, Tensor]:
        """The map ``x M + c`` of a target's channels, the same at every position, that this is without a norm.

        Returns:
            Matrix (B, C, C) and offset (B, C), float32 or wider.
        """
        keys, mask = source.tokens(self.kv_stride, self.max_kv_tokens)
        context = linear_context(self.key(keys), self.value(keys), key_mask=mask)
        with torch.autocast(context.device.type, enabled=False):
            weight, bias = (t.to(context.dtype) for t in (self.query.weight, self.query.bias))
            return weight.t() @ context, bias @ context

    def extra_repr(self) -> str:
        return f"channels={self.channels}, kv_stride={self.kv_stride}, max_kv_tokens={self.max_kv_tokens}"


class RenderingTransformer(Branch):
    """Rendering Transformer: a coarser level is rendered with the detail of a finer one (paper, RT).

    ``w = GAP(fine)``; ``out = conv(coarse * w) + down(fine)``, then one more 3x3 convolution if asked for. That product
    goes with the square of the features' scale; "normalized" divides w by its root mean square over the channels, so
    that both terms go with the scale itself. The authors' code gates behind the convolution,
    ``relu(conv(coarse) * relu(norm(conv1x1(GAP(fine)))) + down(fine))``, and has no norm on the sum.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_halvings: int,
        gate: str = "paper",
        final_conv: bool = True,
        norm: Norm = None,
    ) -> None:
        """
        Args:
            channels: of both levels and of the output.
            num_halvings: log2 of the ratio of the strides. The finer level goes through as many 3x3 convolutions of
                stride 2 (one of stride 1 for levels of one size).
            gate: "paper", "normalized" or "authors", see above.
            final_conv: a 3x3 convolution after the addition. The paper leaves it open.
            norm: makes the normalisation, of the output or for "authors" of the gate, from channels; None for none.

        Raises:
            ValueError: a value that is not allowed.
        """
        super().__init__(channels, None if gate == "authors" else norm)
        check_argument("num_halvings", num_halvings, num_halvings >= 0, "0 or more: the source is the finer level")
        check_argument("gate", gate, gate in GATES, one_of(GATES))
        self.query = nn.Conv2d(channels, channels, 3, padding=1)
        strides = [2] * num_halvings or [1]
        self.down = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=s, padding=1) for s in strides)
        self.out = nn.Conv2d(channels, channels, 3, padding=1) if final_conv else None
        self.normalizes_gate, self.gate = gate == "normalized", None
        if gate == "authors":
            self.can_recompute = False
            gate_norm = nn.Identity() if norm is None else norm(channels)
            self.gate = nn.Sequential(nn.Conv2d(channels, channels, 1), gate_norm, nn.ReLU())

    def transform(self, target: Level, source: Level) -> Tensor:
        """Both levels come with zeros in the padding, as :class:`.pyramid.PyramidTransform` hands them over."""
        shrunk = self._shrink(source, target.map.shape[-2:])
        x = target.map
        if self.gate is None:
            x = x * (_unit_rms(source.mean.flatten(1)).view_as(source.mean) if self.normalizes_gate else source.mean)
        out = convolve(self.query, x) if self.winograd else self.query(x)
        if self.gate is None:
            out = out + shrunk
        else:
            out = (out * self.gate(source.mean) + shrunk).relu_()
        if self.out is not None:
            x = out if target.mask is None else target.without_padding(out)
            out = convolve(self.out, x) if self.winograd else self.out(x)
        return out

    def _shrink(self, source: Level, size: torch.Size) -> Tensor:
        x, mask = source.map, source.mask
        for i, conv in enumerate(self.down):
            # A convolution leaves its bias in the padding, which the next one would carry into the image.
            x = conv(x if i == 0 or mask is None else x.masked_fill(~mask, 0))
            mask = None if mask is None or conv.stride == (1, 1) else mask[..., ::2, ::2]
        if x.shape[-2:] != size:  # a trunk that rounds odd sizes down
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        return x


def _unit_rms(x: Tensor, num_parts: int = 1, factor: Tensor | None = None) -> Tensor:
    """``x`` (..., C), each of its parts over its root mean square, times a factor (N) of each part; in x's dtype."""
    with torch.autocast(x.device.type, enabled=False):
        parts = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(
            *x.shape[:-1], num_parts, int(x.shape[-1]) // num_parts
        )
        inverse = (parts.square().mean(-1, keepdim=True) + UNIT_EPS).rsqrt()
        if factor is not None:
            inverse = inverse * factor.to(inverse.dtype).unsqueeze(-1)
        out: Tensor = (parts * inverse).flatten(-2).to(x.dtype)
        return out


def _check_pooling(kv_stride: int, max_kv_tokens: int) -> None:
    check_argument("kv_stride", kv_stride, kv_stride > 0, "1 or more")
    check_argument("max_kv_tokens", max_kv_tokens, max_kv_tokens >= 0, "0 (no bound) or more")
