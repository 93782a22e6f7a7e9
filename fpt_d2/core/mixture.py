"""How a mixture of softmaxes over dot products is computed: its weights, the choice of a path, and the paths.

On the CPU queries go in chunks, and the backward pass computes the scores again: memory is linear. The two passes are
operators of their own, ``torch.ops.fpt_d2.mixture`` and ``mixture_backward``, so that fake tensors and torch's FLOP
counter see one operator each and not the thousands of chunks. Elsewhere, and with a single softmax, it is torch's fused
attention, or, in half precision on a CUDA GPU, Triton's kernels (:mod:`.triton_mixture`).

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels,
G images that are computed together, T queries of one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .arguments import ArgumentError, one_of
from .fused import fused_mixture
from .products import add_product, onednn_is_faster, product
from .similarity import mean_weights

IMPLEMENTATIONS = ("auto", "chunked", "sdpa", "triton", "reference")

# A step's T x K score buffer stays below this many bytes; three such buffers live in the backward pass. More than 256
# queries a chunk gains nothing (the buffer leaves the processor's cache), far fewer starve the matrix products.
SCORE_BUFFER_BYTES = 64 * 2**20
MAX_CHUNK = 256
MIN_CHUNK = 16
# Small maps: so many bytes of scores are worth one step, with more queries and images in it. Four times as many leave
# the core's own cache: where 64 channels train with two parts that takes 1.2 times as long.
STEP_BYTES = 2**20
LN_2 = math.log(2)


def mixture_gate(k: Tensor, weight: Tensor | None, *, key_mask: Tensor | None = None) -> Tensor:
    """Weights of the parts, ``softmax_n(w_n . mean_j k_j)`` (paper; the authors' code takes the mean of q).

    Args:
        k: (B, K, C). weight: (N, C), or None for a single part, whose weight is one.
        key_mask: (B, K) bool or None; the mean runs over the valid keys.

    Returns:
        (B, N), float32 or wider.
    """
    dtype = torch.promote_types(k.dtype, torch.float32)
    if weight is None:
        return torch.ones(k.shape[0], 1, device=k.device, dtype=dtype)
    with torch.autocast(k.device.type, enabled=False):
        k = k.to(dtype)
        mean = k.mean(1) if key_mask is None else (mean_weights(key_mask, k.dtype).unsqueeze(1) @ k).squeeze(1)
        return F.softmax(F.linear(mean, weight.to(k.dtype)), dim=-1)


def dot_product_mixture(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float,
    impl: str = "auto",
) -> Tensor:
    """``out = sum_n gate_n softmax_k(scale (q_n . k_n + bias_n)) v`` without a Q x K matrix.

    Scores and softmax are computed in float32 (float64 for float64 input).

    Args:
        q: (B, Q, C). k: (B, K, C). v: (B, K, V). Floating dtypes.
        gate: (B, N), weights of the parts.
        bias: (B, N, K), added to the scores, or None.
        key_mask: (B, K) bool, False where a key is padding, or None where none is.
        scale: positive factor of the scores.
        impl: see :func:`.attention.mixture_attention`.

    Returns:
        (B, Q, V) in the dtype of ``v``.

    Raises:
        ValueError: unknown impl, shapes that do not fit each other, no key or a scale that is not positive (these not
            in a recorded graph), channels that N does not divide, or what "triton" cannot compute.
    """
    if impl not in IMPLEMENTATIONS:
        raise ArgumentError("impl", impl, one_of(IMPLEMENTATIONS))
    is_recorded = torch.jit.is_tracing() or torch.compiler.is_compiling()
    if not is_recorded:
        _check_shapes(q, k, v, gate, bias, key_mask)
        if not 0 < scale < math.inf:
            raise ArgumentError("scale", scale, "a positive number")
    if q.shape[2] % gate.shape[1] != 0:
        raise ValueError(f"{q.shape[2]} channels cannot be cut into {gate.shape[1]} equal parts")
    if impl == "auto":  # a recorded graph is to run without this package, so it gets torch's own operator
        impl = "sdpa" if is_recorded else _fastest(q, k, v, gate, bias)
    if impl == "sdpa":
        return fused_mixture(q, k, v, gate, bias, key_mask, scale)
    if impl == "triton":
        from .triton_mixture import triton_mixture

        return triton_mixture(q, k, v, gate, bias, key_mask, scale)
    bias = with_padding(bias, key_mask, torch.promote_types(q.dtype, torch.float32))
    if impl == "reference":
        return all_at_once(q, k, v, gate, bias, scale)
    out: Tensor = _Mixture.apply(q, k, v, gate, bias, scale)[0]
    return out


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None) -> None:
    """Fused kernels read beyond the end of what is too small, and chunks leave out images, without a word."""
    has_axes = q.dim() == k.dim() == v.dim() == 3 and gate.dim() == 2
    fits = has_axes and k.shape[1] > 0 and q.shape[0] == k.shape[0] == gate.shape[0] and q.shape[2] == k.shape[2]
    fits = fits and v.shape[:2] == k.shape[:2] and (key_mask is None or key_mask.shape == k.shape[:2])
    if bias is not None:  # one for each part or one for all
        fits = fits and bias.shape[::2] == k.shape[:2] and bias.shape[1] in (1, gate.shape[1])
    if not fits:
        named = {"q": q, "k": k, "v": v, "gate": gate, "bias": bias, "key_mask": key_mask}
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in named.items() if t is not None)
        raise ValueError(
            f"Shapes do not fit each other: {shapes}; allowed: q (B, Q, C), k (B, K, C), v (B, K, V), gate (B, N), "
            "bias (B, N, K), key_mask (B, K), with K above 0"
        )


def _fastest(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None) -> str:
    """The impl that "auto" stands for."""
    if q.device.type == "cpu":
        # Torch's operator trains a single softmax 1.2 times (256 channels) to 2 times (32) faster than the chunks where
        # these do not multiply faster. With more parts it loses: it multiplies each of them with the values.
        multiplies_faster = q.dtype == torch.float32 and q.shape[2] >= 64 and onednn_is_faster()
        return "sdpa" if gate.shape[1] == 1 and not multiplies_faster else "chunked"
    if v.dtype in (torch.bfloat16, torch.float16):
        from .triton_mixture import is_faster

        if is_faster(q, k, v, gate, bias):
            return "triton"
    return "sdpa"


def with_padding(bias: Tensor | None, key_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias, with -inf for every key that is padding."""
    if key_mask is None:
        return bias
    padding = torch.zeros_like(key_mask, dtype=dtype).masked_fill_(~key_mask, float("-inf")).unsqueeze(1)
    return padding if bias is None else bias + padding


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return _mixture(*inputs)  # type: ignore[no-any-return]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, output[1])

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        (*inputs, lse), needed = ctx.saved_tensors, ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # create_graph, or torch.func: this derivative may be differentiated in its turn
            plain = partial(all_at_once, scale=ctx.scale)
            return (*plain_gradients(plain, inputs, needed, grad_out), None)
        grads = _mixture_backward(grad_out, *inputs, lse, ctx.scale)
        return (*(g if need else None for g, need in zip(grads, needed)), None)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor]:
        raise NotImplementedError(
            "Attention in chunks has no forward-mode derivative (torch.func.jvp): take impl='reference'"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        *tensors, scale = inputs
        outputs = _Mixture.apply(*join_batch(info, in_dims, tensors), scale)
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in outputs), (0, 0)


def plain_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad_out: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of ``function(*inputs)`` that may be differentiated in their turn; None where none is needed."""

    def of_wanted(*wanted: Tensor) -> Tensor:
        given = iter(wanted)
        return function(*(next(given) if need else t for t, need in zip(inputs, needed)))

    pull_back = torch.func.vjp(of_wanted, *(t for t, need in zip(inputs, needed) if need))[1]
    grads = iter(pull_back(grad_out))
    return tuple(next(grads) if need else None for need in needed)


def join_batch(info: Any, in_dims: Sequence[int | None], tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The mapped dimension of vmap joins the batch, of which every image is computed by itself anyway."""
    size, flat = info.batch_size, []
    for tensor, dim in zip(tensors, in_dims):
        if tensor is not None:
            tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            tensor = tensor.flatten(0, 1)
        flat.append(tensor)
    return flat


def all_at_once(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """The mixture by plain operators, which store every score."""
    dtype, num_parts = torch.promote_types(q.dtype, torch.float32), gate.shape[1]
    with torch.autocast(q.device.type, enabled=False):
        q, k = (t.to(dtype).unflatten(2, (num_parts, -1)).transpose(1, 2) for t in (q, k))
        scores = q @ k.transpose(2, 3)
        if bias is not None:
            scores = scores + bias.to(dtype).unsqueeze(2)
        weights = (gate[:, :, None, None].to(dtype) * (scale * scores).softmax(3)).sum(1)
        return weights.to(v.dtype) @ v


def step_size(batch: int, num_queries: int, num_keys: int, itemsize: int = 4) -> tuple[int, int]:
    """Images and queries (G, T) of one step; more images than one only with all of their queries."""
    row = max(1, num_keys * itemsize)
    queries = max(MIN_CHUNK, min(MAX_CHUNK, SCORE_BUFFER_BYTES // row), STEP_BYTES // row)
    queries = max(1, min(num_queries, queries))
    return max(1, min(batch, STEP_BYTES // (queries * row))), queries


class _Scores:
    """The scores of a group of images, in buffers of one chunk that are allocated once.

    The bias and a shift of each query are two more channels: ``(scale q_n, 1, -shift) . (k_n, bias_n, 1)``. With the
    log-sum-exp as the shift one product and one power give the softmax, in about half the time of torch's, and the
    bias, a third of a product's time by itself, is free and has its gradient among the keys'.

    The scores are in base 2, by the scale: torch's ``exp`` is MKL's, which takes four times as long as ``exp2`` on some
    processors, and 35 times where a weight underflows, as most do where attention is sharp.
    """

    def __init__(
        self,
        q: Tensor,
        k: Tensor,
        gate: Tensor,
        bias: Tensor | None,
        scale: float,
        *,
        images: slice,
        chunk: int,
        num_buffers: int,
    ) -> None:
        self.dtype, self.num_parts = torch.promote_types(q.dtype, torch.float32), gate.shape[1]
        self.scale = scale / LN_2
        q = q[images].unflatten(2, (self.num_parts, -1)).permute(2, 0, 1, 3).to(self.dtype)  # (N, G, Q, D)
        k = k[images].unflatten(2, (self.num_parts, -1)).permute(2, 0, 1, 3).to(self.dtype)
        ends = [q.new_ones(1).expand(*k.shape[:2], 1, k.shape[2])]
        if bias is not None:
            bias = self.scale * bias[images].to(self.dtype).transpose(0, 1).unsqueeze(2)  # (N, G, 1, K)
            ends.insert(0, bias.expand(self.num_parts, -1, -1, -1))
        self.k, width = k, q.shape[3]
        self.keys = torch.cat((k.transpose(2, 3), *ends), 2)  # (N, G, D + 1 or 2, K)
        # Contiguous, or every chunk's matrix product would copy it. Scaled here, to save a pass over the scores.
        self.q = q.new_ones(*q.shape[:3], width + len(ends))
        torch.mul(q, self.scale, out=self.q[..., :width])
        self.gate = gate[images].to(self.dtype).t()[:, :, None, None]  # (N, G, 1, 1)
        self.buffers = self.q.new_empty(num_buffers, self.q.shape[1], chunk, k.shape[2])

    def shifted(self, part: int, rows: slice) -> Tensor:
        """(G, T, K) scores of one part less the shift, which may be in buffer 0."""
        scores = self.buffers[0, :, : rows.stop - rows.start]
        return product(self.q[part, :, rows], self.keys[part], scores)


@torch.library.custom_op(
    "fpt_d2::mixture",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, float scale) -> (Tensor, Tensor)",
)
def _mixture(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """The mixture, and the log-sum-exp of its scores (B, N, Q), in base 2."""
    out, lse = _outputs(q, k, v, gate)
    num_parts = gate.shape[1]
    group, chunk = step_size(q.shape[0], q.shape[1], k.shape[1], lse.itemsize)
    with torch.autocast(q.device.type, enabled=False):
        for start in range(0, q.shape[0], group):
            images = slice(start, start + group)
            scores = _Scores(q, k, gate, bias, scale, images=images, chunk=chunk, num_buffers=2)
            values = v[images].contiguous()
            scores.q[..., -1] = 0  # no shift
            for row in range(0, q.shape[1], chunk):
                rows = slice(row, min(row + chunk, q.shape[1]))
                mixed = scores.buffers[1, :, : rows.stop - rows.start]
                # The weights of the whole mixture first, so that one product with the values serves every part.
                for part in range(num_parts):
                    # by hand, because torch's softmax takes longer in the cache and does not say the log-sum-exp
                    exps = scores.shifted(part, rows)
                    largest = exps.amax(2, keepdim=True)
                    total = exps.sub_(largest).exp2_().sum(2, keepdim=True)
                    lse[images, part, rows] = (largest + total.log2()).squeeze(2)
                    weight = scores.gate[part] / total
                    mixed = torch.mul(exps, weight, out=mixed) if part == 0 else mixed.addcmul_(exps, weight)
                out[images, rows] = product(mixed.to(v.dtype), values)
    return out, lse


@torch.library.custom_op(
    "fpt_d2::mixture_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, Tensor lse, float scale) "
        "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _mixture_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, lse: Tensor, scale: float
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, gate and bias; of a bias that is None an empty one."""
    inputs = (q, k, v, gate, q.new_empty(0) if bias is None else bias)
    grads = [torch.zeros_like(t, dtype=lse.dtype) for t in inputs]
    group, chunk = step_size(q.shape[0], q.shape[1], k.shape[1], lse.itemsize)
    with torch.autocast(q.device.type, enabled=False):
        for start in range(0, q.shape[0], group):
            images = slice(start, start + group)
            scores = _Scores(q, k, gate, bias, scale, images=images, chunk=chunk, num_buffers=3)
            scores.q[..., -1] = -lse[images].transpose(0, 1)  # exp2 gives the weights
            _add_gradients(scores, v[images], grad_out[images], *(g if g.dim() == 1 else g[images] for g in grads))
    return tuple(g.to(t.dtype) for g, t in zip(grads, inputs))


def _add_gradients(
    scores: _Scores,
    v: Tensor,
    grad_out: Tensor,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
    grad_gate: Tensor,
    grad_bias: Tensor,
) -> None:
    """Add a group's gradients to ``grad_*``: zeros in the shapes of the inputs with G for B."""
    values_t, k = v.to(scores.dtype).transpose(1, 2), scores.k.contiguous()
    grad_q_parts, grad_k_parts = (t.unflatten(2, (scores.num_parts, -1)).permute(2, 0, 1, 3) for t in (grad_q, grad_k))
    grad_keys = torch.zeros_like(scores.keys[:, :, :-1])  # and of the bias, of all keys the last channel
    num_queries, chunk = grad_out.shape[1], scores.buffers.shape[2]
    for row in range(0, num_queries, chunk):
        rows = slice(row, min(row + chunk, num_queries))
        grad_rows = grad_out[:, rows].to(scores.dtype)
        _, mixed, grad_weights = (b[:, : grad_rows.shape[1]] for b in scores.buffers)
        # d out / d weights, the same for every part
        grad_weights = product(grad_rows, values_t, grad_weights)
        for part in range(scores.num_parts):
            gate = scores.gate[part]
            weights = scores.shifted(part, rows).exp2_()
            mixed = torch.mul(weights, gate, out=mixed) if part == 0 else mixed.addcmul_(weights, gate)
            # image by image: bmm takes seven times as long for a batch of such products
            grad_gate[:, part] += torch.stack([torch.dot(*t) for t in zip(weights.flatten(1), grad_weights.flatten(1))])
            # in place, and without the gate, which is left to the narrow products below
            grad_scores = torch.ops.aten._softmax_backward_data.out(
                grad_weights, weights, -1, weights.dtype, grad_input=weights
            )
            torch.mul(product(grad_scores, k[part]), gate * LN_2 * scores.scale, out=grad_q_parts[part, :, rows])
            # with the keys last, which takes a fifth less than with the channels last
            add_product(grad_keys[part], scores.q[part, :, rows, :-1].transpose(1, 2), grad_scores)
        add_product(grad_v, mixed.transpose(1, 2), grad_rows)
    grad_keys *= scores.gate * LN_2
    width = grad_k_parts.shape[3]
    grad_k_parts.copy_(grad_keys[:, :, :width].transpose(2, 3))
    if grad_keys.shape[2] > width:
        of_parts = scores.scale * grad_keys[:, :, width].transpose(0, 1)
        grad_bias.copy_(of_parts if grad_bias.shape[1] > 1 else of_parts.sum(1, keepdim=True))


def _outputs(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    return out, q.new_empty(q.shape[0], gate.shape[1], q.shape[1], dtype=torch.promote_types(q.dtype, torch.float32))


@_mixture.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _outputs(q, k, v, gate)


@_mixture_backward.register_fake
def _(grad_out: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    q, k, v, gate, bias, *_ = inputs
    return tuple(torch.empty_like(t) for t in (q, k, v, gate, q.new_empty(0) if bias is None else bias))


@register_flop_formula(torch.ops.fpt_d2.mixture)
def _(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Two for each multiply-add: the scores of all parts and one product with the values."""
    return 2 * q[0] * q[1] * k[1] * (q[2] + v[2])  # type: ignore[no-any-return]


@register_flop_formula(torch.ops.fpt_d2.mixture_backward)
def _(grad_out: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The scores again and their two gradients; the weights' gradient and the values'."""
    return 2 * q[0] * q[1] * k[1] * (3 * q[2] + 2 * v[2])  # type: ignore[no-any-return]
