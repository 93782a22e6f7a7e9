"""Mixture-of-softmaxes attention in linear memory: queries go in chunks, the backward pass computes the scores again.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
T queries of one chunk.
"""

from typing import Any, Iterator, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A chunk's score buffer stays below this many bytes; four of them live in the backward pass. More than 256 queries a
# chunk gains nothing (the buffer leaves the processor's cache), far fewer starve the matrix products.
SCORE_BUFFER_BYTES = 64 * 2**20
MAX_CHUNK = 256
MIN_CHUNK = 16


def chunk_size(num_queries: int, num_keys: int, itemsize: int = 4) -> int:
    """Queries per chunk so that T x K scores of ``itemsize`` bytes fit into :data:`SCORE_BUFFER_BYTES`."""
    fitting = SCORE_BUFFER_BYTES // max(1, num_keys * itemsize)
    return max(1, min(num_queries, MAX_CHUNK, max(MIN_CHUNK, fitting)))


def chunked_mixture_attention(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *, bias: Optional[Tensor] = None, scale: float
) -> Tensor:
    """``out = sum_n gate_n softmax_k(scale q_n . k_n + bias_n) v`` without a Q x K matrix.

    Scores and softmax are computed in float32 (float64 for float64 input).

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V). All of one floating dtype.
        gate: (B, N), weights of the parts.
        bias: (B, N, K) or (B, 1, K), added to the scores; at least one finite entry for each part.
        scale: factor of the dot product.

    Returns:
        (B, Q, V) in the dtype of ``v``. Differentiable once in q, k, v, gate and bias.
    """
    out: Tensor = _ChunkedMixture.apply(q, k, v, gate, bias, scale)
    return out


class _ChunkedMixture(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Optional[Tensor], scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, gate, bias)
        ctx.scale = scale
        out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
        with torch.autocast(q.device.type, enabled=False):
            for b in range(q.shape[0]):
                example = _Example(q[b], k[b], gate[b], None if bias is None else bias[b], scale)
                value = v[b].contiguous()
                for rows in example.chunks():
                    torch.mm(example.mixed_weights(rows).to(v.dtype), value, out=out[b, rows])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, gate, bias = ctx.saved_tensors
        grads = [None if t is None else torch.zeros_like(t, dtype=_score_dtype(q)) for t in (q, k, v, gate, bias)]
        if not ctx.needs_input_grad[4]:
            grads[4] = None
        with torch.autocast(q.device.type, enabled=False):
            for b in range(q.shape[0]):
                example = _Example(q[b], k[b], gate[b], None if bias is None else bias[b], ctx.scale)
                _backward_of_example(
                    example, v[b].to(example.dtype), grad_out[b], *(None if g is None else g[b] for g in grads)
                )
        inputs = (q, k, v, gate, bias)
        return (*(None if g is None else g.to(t.dtype) for g, t in zip(grads, inputs)), None)


def _score_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


class _Example:
    """One image's queries and keys, and the buffers in which its chunks are computed one after the other."""

    def __init__(self, q: Tensor, k: Tensor, gate: Tensor, bias: Optional[Tensor], scale: float) -> None:
        self.dtype = _score_dtype(q)
        self.scale = scale
        self.num_parts = gate.shape[0]
        self.gate = gate.to(self.dtype)
        self.bias = None if bias is None else bias.to(self.dtype).expand(self.num_parts, -1)
        # (N, Q, D) and (N, K, D); contiguous, or every chunk's matrix product would copy them.
        self.q, self.k = (
            t.to(self.dtype).unflatten(1, (self.num_parts, -1)).transpose(0, 1).contiguous() for t in (q, k)
        )
        self.chunk = chunk_size(q.shape[0], k.shape[0], self.q.element_size())
        self._buffers = [self.q.new_empty(0)] * 4

    def chunks(self) -> Iterator[slice]:
        num_queries = self.q.shape[1]
        for start in range(0, num_queries, self.chunk):
            yield slice(start, min(start + self.chunk, num_queries))

    def buffer(self, index: int, rows: slice) -> Tensor:
        """(T, K), allocated at the first use and reused by every chunk."""
        num_keys = self.k.shape[1]
        if self._buffers[index].numel() == 0:
            self._buffers[index] = self.q.new_empty(self.chunk, num_keys)
        return self._buffers[index][: rows.stop - rows.start]

    def part_weights(self, part: int, rows: slice) -> Tensor:
        """(T, K) softmax of one part, in buffer 0."""
        scores = self.buffer(0, rows)
        if self.bias is None:
            torch.mm(self.q[part, rows], self.k[part].t(), out=scores).mul_(self.scale)
        else:
            torch.addmm(self.bias[part], self.q[part, rows], self.k[part].t(), alpha=self.scale, out=scores)
        return torch.softmax(scores, dim=-1, out=scores)

    def mixed_weights(self, rows: slice) -> Tensor:
        """(T, K) weights of the whole mixture, so that one product with the values serves every part."""
        if self.num_parts == 1:
            return self.part_weights(0, rows).mul_(self.gate[0])
        mixed = self.buffer(1, rows)
        torch.mul(self.part_weights(0, rows), self.gate[0], out=mixed)
        for part in range(1, self.num_parts):
            mixed.addcmul_(self.part_weights(part, rows), self.gate[part])
        return mixed


def _backward_of_example(
    example: _Example,
    v: Tensor,
    grad_out: Tensor,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    grad_gate: Tensor,
    grad_bias: Optional[Tensor],
) -> None:
    """Add one image's gradients to ``grad_*`` (shapes of the inputs without B)."""
    grad_q_parts, grad_k_parts = (g.unflatten(1, (example.num_parts, -1)).transpose(0, 1) for g in (grad_q, grad_k))
    for rows in example.chunks():
        grad_rows = grad_out[rows].to(example.dtype)
        # d out / d weights, the same for every part
        grad_weights = torch.mm(grad_rows, v.t(), out=example.buffer(2, rows))
        mixed = example.buffer(1, rows).zero_()
        for part in range(example.num_parts):
            gate = example.gate[part]
            weights = example.part_weights(part, rows)
            mixed.addcmul_(weights, gate)
            # softmax backward, dS = w * (dW - sum_k w dW); the gate is left to the narrow products below
            grad_scores = torch.mul(weights, grad_weights, out=example.buffer(3, rows))
            expectation = grad_scores.sum(1, keepdim=True)
            grad_gate[part] += expectation.sum()
            grad_scores.addcmul_(weights, expectation, value=-1)
            if grad_bias is not None:
                grad_bias[part if grad_bias.shape[0] > 1 else 0] += grad_scores.sum(0) * gate
            factor = gate * example.scale
            grad_q_parts[part, rows] = torch.mm(grad_scores, example.k[part]) * factor
            grad_k_parts[part].addmm_(grad_scores.t(), example.q[part, rows] * factor)
        grad_v.addmm_(mixed.t(), grad_rows)
