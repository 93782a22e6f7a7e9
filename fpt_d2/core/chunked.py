"""Mixture-of-softmaxes attention in linear memory: queries go in chunks, the backward pass computes the scores again.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
G images that are computed together, T queries of one chunk.
"""

from typing import Any, Iterator, List, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# A step's T x K score buffer stays below this many bytes; four such buffers live in the backward pass. More than 256
# queries a chunk gains nothing (the buffer leaves the processor's cache), far fewer starve the matrix products.
SCORE_BUFFER_BYTES = 64 * 2**20
MAX_CHUNK = 256
MIN_CHUNK = 16
# Small maps: so many bytes of scores are worth one step, with more queries and images in it.
STEP_BYTES = 4 * 2**20


def step_size(batch: int, num_queries: int, num_keys: int, itemsize: int = 4) -> Tuple[int, int]:
    """Images and queries (G, T) of one step."""
    row = max(1, num_keys * itemsize)
    queries = max(MIN_CHUNK, min(MAX_CHUNK, SCORE_BUFFER_BYTES // row), STEP_BYTES // row)
    queries = max(1, min(num_queries, queries))
    return max(1, min(batch, STEP_BYTES // (queries * row))), queries


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
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Optional[Tensor], scale: float
    ) -> Tensor:
        ctx.save_for_backward(q, k, v, gate, bias)
        ctx.scale = scale
        out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
        with torch.autocast(q.device.type, enabled=False):
            for images, scores in _groups(q, k, gate, bias, scale):
                values = v[images].contiguous()
                for rows in scores.chunks():
                    out[images, rows] = torch.bmm(scores.mixed_weights(rows).to(v.dtype), values)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, gate, bias = inputs = ctx.saved_tensors
        needed = (True, True, True, True, ctx.needs_input_grad[4])
        grads: List[Any] = [torch.zeros_like(t, dtype=_score_dtype(q)) if n else None for t, n in zip(inputs, needed)]
        with torch.autocast(q.device.type, enabled=False):
            for images, scores in _groups(q, k, gate, bias, ctx.scale):
                group: List[Any] = [None if g is None else g[images] for g in grads]
                _add_gradients(scores, ctx.scale, v[images], grad_out[images], *group)
        return (*(None if g is None else g.to(t.dtype) for g, t in zip(grads, inputs)), None)


def _score_dtype(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def _groups(
    q: Tensor, k: Tensor, gate: Tensor, bias: Optional[Tensor], scale: float
) -> Iterator[Tuple[slice, "_Scores"]]:
    group, chunk = step_size(q.shape[0], q.shape[1], k.shape[1], 8 if q.dtype == torch.float64 else 4)
    for start in range(0, q.shape[0], group):
        images = slice(start, start + group)
        yield images, _Scores(q[images], k[images], gate[images], None if bias is None else bias[images], scale, chunk)


def _cut(x: Tensor, num_parts: int) -> Tensor:
    """(G, Q, C) -> (N, G, Q, D)."""
    return x.unflatten(2, (num_parts, -1)).permute(2, 0, 1, 3)


class _Scores:
    """The softmaxes of a group of images, chunk by chunk in buffers that are allocated once."""

    def __init__(self, q: Tensor, k: Tensor, gate: Tensor, bias: Optional[Tensor], scale: float, chunk: int) -> None:
        self.dtype = _score_dtype(q)
        self.chunk, self.num_parts = chunk, gate.shape[1]
        self.gate = gate.to(self.dtype).t()[:, :, None, None]  # (N, G, 1, 1)
        self.bias = None
        if bias is not None:  # (N, G, 1, K)
            self.bias = bias.to(self.dtype).transpose(0, 1).unsqueeze(2).expand(self.num_parts, -1, -1, -1)
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


def _add_gradients(
    scores: _Scores,
    scale: float,
    v: Tensor,
    grad_out: Tensor,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    grad_gate: Tensor,
    grad_bias: Optional[Tensor],
) -> None:
    """Add a group's gradients to ``grad_*``, which have the shapes of the inputs with G for B."""
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
            if grad_bias is not None:
                grad_bias[:, part if grad_bias.shape[1] > 1 else 0] += grad_scores.sum(1) * gate[:, 0]
            grad_q_parts[part, :, rows] = torch.bmm(grad_scores, scores.k[part]) * (gate * scale)
            grad_k_parts[part] += torch.bmm(grad_scores.transpose(1, 2), scores.q[part, :, rows] * gate)
        grad_v += torch.bmm(mixed.transpose(1, 2), grad_rows)
