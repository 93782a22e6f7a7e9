"""Mixture-of-softmaxes attention in linear memory: queries go in chunks, the backward pass computes the scores again.

The two passes are operators of their own, ``torch.ops.fpt_d2.mixture`` and ``mixture_backward``, so that fake tensors
and torch's FLOP counter see one operator each and not the thousands of chunks.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
G images that are computed together, T queries of one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

# A step's T x K score buffer stays below this many bytes; four such buffers live in the backward pass. More than 256
# queries a chunk gains nothing (the buffer leaves the processor's cache), far fewer starve the matrix products.
SCORE_BUFFER_BYTES = 64 * 2**20
MAX_CHUNK = 256
MIN_CHUNK = 16
# Small maps: so many bytes of scores are worth one step, with more queries and images in it.
STEP_BYTES = 4 * 2**20


def step_size(batch: int, num_queries: int, num_keys: int, itemsize: int = 4) -> tuple[int, int]:
    """Images and queries (G, T) of one step."""
    row = max(1, num_keys * itemsize)
    queries = max(MIN_CHUNK, min(MAX_CHUNK, SCORE_BUFFER_BYTES // row), STEP_BYTES // row)
    queries = max(1, min(num_queries, queries))
    return max(1, min(batch, STEP_BYTES // (queries * row))), queries


def chunked_mixture_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, bias: Tensor | None = None, scale: float
) -> Tensor:
    """``out = sum_n gate_n softmax_k(scale (q_n . k_n + bias_n)) v`` without a Q x K matrix.

    Scores and softmax are computed in float32 (float64 for float64 input).

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V). Floating dtypes.
        gate: (B, N), weights of the parts.
        bias: (B, N, K) or (B, 1, K), added to the scores; at least one finite entry for each part.
        scale: positive factor of the scores.

    Returns:
        (B, Q, V) in the dtype of ``v``. Differentiable in q, k, v, gate and bias; derivatives of the derivative store
        every score.
    """
    out: Tensor = _Mixture.apply(q, k, v, gate, bias, scale)  # type: ignore[no-untyped-call]
    return out


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> Tensor:
        return _mixture(q, k, v, gate, bias, scale)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # create_graph: this derivative is to be differentiated in its turn
            # Views, because one input may be computed from another (a bias from k), which is not this derivative's.
            inputs = [None if t is None else t.view_as(t) for t in inputs]
            wanted = [t for t, need in zip(inputs, needed) if need]
            out = _all_at_once(*inputs, ctx.scale)
            grads = iter(torch.autograd.grad(out, wanted, grad_out, create_graph=True))
            return (*(next(grads) if need else None for need in needed), None)
        grads = _mixture_backward(grad_out, *inputs, ctx.scale)
        return (*(g if need else None for g, need in zip(grads, needed)), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        raise NotImplementedError(
            "Attention in chunks has no forward-mode derivative (torch.func.jvp): take impl='reference'"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[Tensor, int]:
        """The mapped dimension joins the batch, of which every image is computed by itself anyway."""
        *tensors, scale = inputs
        size, flat = info.batch_size, []
        for tensor, dim in zip(tensors, in_dims):
            if tensor is not None:
                tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
                tensor = tensor.flatten(0, 1)
            flat.append(tensor)
        out: Tensor = _Mixture.apply(*flat, scale)  # type: ignore[no-untyped-call]
        return out.unflatten(0, (size, -1)), 0


@torch.library.custom_op(
    "fpt_d2::mixture",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, float scale) -> Tensor",
)
def _mixture(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    with torch.autocast(q.device.type, enabled=False):
        for images, scores in _groups(q, k, gate, bias, scale):
            values = v[images].contiguous()
            for rows in scores.chunks():
                out[images, rows] = torch.bmm(scores.mixed_weights(rows).to(v.dtype), values)
    return out


@torch.library.custom_op(
    "fpt_d2::mixture_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, float scale) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _mixture_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, gate and bias; of a bias that is None an empty one."""
    inputs = (q, k, v, gate, q.new_empty(0) if bias is None else bias)
    grads = [torch.zeros_like(t, dtype=_score_dtype(q)) for t in inputs]
    with torch.autocast(q.device.type, enabled=False):
        for images, scores in _groups(q, k, gate, bias, scale):
            group = [g if g.numel() == 0 else g[images] for g in grads]
            _add_gradients(scores, v[images], grad_out[images], group)
    return tuple(g.to(t.dtype) for g, t in zip(grads, inputs))


@_mixture.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    return v.new_empty(q.shape[0], q.shape[1], v.shape[2])


@_mixture_backward.register_fake
def _(grad_out: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    q, k, v, gate, bias, _ = inputs
    return tuple(torch.empty_like(t) for t in (q, k, v, gate, q.new_empty(0) if bias is None else bias))


def _all_at_once(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The same by plain operators, which store every score."""
    dtype, num_parts = _score_dtype(q), gate.shape[1]
    q, k = (t.to(dtype).unflatten(2, (num_parts, -1)).transpose(1, 2) for t in (q, k))
    scores = q @ k.transpose(2, 3)
    if bias is not None:
        scores = scores + bias.to(dtype).unsqueeze(2)
    weights = (gate[:, :, None, None].to(dtype) * (scale * scores).softmax(3)).sum(1)
    return weights.to(v.dtype) @ v


@register_flop_formula(torch.ops.fpt_d2.mixture)  # type: ignore[untyped-decorator]
def _(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Two for each multiply-add: the scores of all parts and one product with the values."""
    return 2 * q[0] * q[1] * k[1] * (q[2] + v[2])  # type: ignore[no-any-return]


@register_flop_formula(torch.ops.fpt_d2.mixture_backward)  # type: ignore[untyped-decorator]
def _(grad_out: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The scores again and their two gradients; the weights' gradient and the values'."""
    return 2 * q[0] * q[1] * k[1] * (3 * q[2] + 2 * v[2])  # type: ignore[no-any-return]


def _score_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _groups(
    q: Tensor, k: Tensor, gate: Tensor, bias: Tensor | None, scale: float
) -> Iterator[tuple[slice, _Scores]]:
    group, chunk = step_size(q.shape[0], q.shape[1], k.shape[1], 8 if q.dtype == torch.float64 else 4)
    for start in range(0, q.shape[0], group):
        images = slice(start, start + group)
        yield images, _Scores(q[images], k[images], gate[images], None if bias is None else bias[images], scale, chunk)


def _cut(x: Tensor, num_parts: int) -> Tensor:
    """(G, Q, C) -> (N, G, Q, D)."""
    return x.unflatten(2, (num_parts, -1)).permute(2, 0, 1, 3)


class _Scores:
    """The softmaxes of a group of images, chunk by chunk in buffers that are allocated once."""

    def __init__(self, q: Tensor, k: Tensor, gate: Tensor, bias: Tensor | None, scale: float, chunk: int) -> None:
        self.dtype = _score_dtype(q)
        self.chunk, self.num_parts, self.scale = chunk, gate.shape[1], scale
        self.gate = gate.to(self.dtype).t()[:, :, None, None]  # (N, G, 1, 1)
        self.bias = None
        if bias is not None:  # (N, G, 1, K)
            bias = scale * bias.to(self.dtype)
            self.bias = bias.transpose(0, 1).unsqueeze(2).expand(self.num_parts, -1, -1, -1)
        # Contiguous, or every chunk's matrix product would copy them. Scaled here, which saves a pass over the scores.
        self.q = _cut(q.to(self.dtype), self.num_parts).contiguous() * scale
        self.k = _cut(k.to(self.dtype), self.num_parts).contiguous()
        self._buffers = [self.q.new_empty(0)] * 4

    def chunks(self) -> Iterator[slice]:
        num_queries = self.q.shape[2]
        for start in range(0, num_queries, self.chunk):
            yield slice(start, min(start + self.chunk, num_queries))

    def buffer(self, index: int, rows: slice) -> Tensor:
        """(G, T, K), allocated at the first use and reused by every chunk."""
        images, num_keys = self.k.shape[1:3]
        if self._buffers[index].numel() == 0:
            self._buffers[index] = self.q.new_empty(images * self.chunk * num_keys)
        size = rows.stop - rows.start
        return self._buffers[index][: images * size * num_keys].view(images, size, num_keys)

    def part_weights(self, part: int, rows: slice) -> Tensor:
        """(G, T, K) softmax of one part, in buffer 0."""
        scores = self.buffer(0, rows)
        q, k = self.q[part, :, rows], self.k[part].transpose(1, 2)
        if self.bias is None:
            torch.bmm(q, k, out=scores)
        else:
            torch.baddbmm(self.bias[part], q, k, out=scores)
        return torch.softmax(scores, dim=-1, out=scores)

    def mixed_weights(self, rows: slice) -> Tensor:
        """(G, T, K) weights of the whole mixture, so that one product with the values serves every part."""
        if self.num_parts == 1:
            return self.part_weights(0, rows).mul_(self.gate[0])
        mixed = torch.mul(self.part_weights(0, rows), self.gate[0], out=self.buffer(1, rows))
        for part in range(1, self.num_parts):
            mixed.addcmul_(self.part_weights(part, rows), self.gate[part])
        return mixed


def _add_gradients(scores: _Scores, v: Tensor, grad_out: Tensor, grads: list[Tensor]) -> None:
    """Add a group's gradients to those of q, k, v, gate and bias, of the inputs' shapes with G for B."""
    grad_q, grad_k, grad_v, grad_gate, grad_bias = grads
    values_t = v.to(scores.dtype).transpose(1, 2)
    grad_q_parts, grad_k_parts = _cut(grad_q, scores.num_parts), _cut(grad_k, scores.num_parts)
    for rows in scores.chunks():
        grad_rows = grad_out[:, rows].to(scores.dtype)
        # d out / d weights, the same for every part
        grad_weights = torch.bmm(grad_rows, values_t, out=scores.buffer(2, rows))
        mixed = scores.buffer(1, rows)
        for part in range(scores.num_parts):
            gate = scores.gate[part]
            weights = scores.part_weights(part, rows)
            if part == 0:
                torch.mul(weights, gate, out=mixed)
            else:
                mixed.addcmul_(weights, gate)
            inner = torch.bmm(weights.flatten(1).unsqueeze(1), grad_weights.flatten(1).unsqueeze(2))
            grad_gate[:, part] += inner.view(-1)
            # without the gate, which is left to the narrow products below
            grad_scores = torch.ops.aten._softmax_backward_data.out(
                grad_weights, weights, -1, weights.dtype, grad_input=scores.buffer(3, rows)
            )
            if grad_bias.numel() > 0:
                grad_bias[:, part if grad_bias.shape[1] > 1 else 0] += grad_scores.sum(1) * (gate[:, 0] * scores.scale)
            grad_q_parts[part, :, rows] = torch.bmm(grad_scores, scores.k[part]) * (gate * scores.scale)
            grad_k_parts[part] += torch.bmm(grad_scores.transpose(1, 2), scores.q[part, :, rows] * gate)
        grad_v += torch.bmm(mixed.transpose(1, 2), grad_rows)
