"""The mixture of softmaxes by Triton's kernels, for CUDA GPUs: ``impl="triton"``.

The two passes are operators, ``torch.ops.fpt_d2.triton_mixture`` and ``triton_mixture_backward``, so that
torch.compile, torch.export, fake tensors and the FLOP counter see one each. Memory is linear: of the scores the
forward pass keeps a log-sum-exp for each query, and the backward pass computes them again. The kernels are tested in
Triton's interpreter on the CPU, and compiled for a GPU, but none has run on one yet: "auto" does not take them.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .mixture import all_at_once, join_batch, plain_gradients, with_padding

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NUM_WARPS = 8
# Programs that keep a large GPU busy: two for each multiprocessor of an H100.
PROGRAMS = 264


class Blocks(NamedTuple):
    """How a kernel cuts its work.

    Attributes:
        queries, keys: of a block. stages: blocks in shared memory, of which one is in use and the others are on their
            way. columns: at most so many does a product sum in one step.
    """

    queries: int
    keys: int
    stages: int
    columns: int


# By bytes of a number, and by channels of the wider of a key and a value, each part padded: for kernels whose programs
# have a block of queries, and for those with a block of keys. Read off the compiled kernels, not off a clock. At the
# paper's width (4 parts of 64 channels, 256 values) those of bfloat16 need 96, 80 and 34 KiB of shared memory on an
# H100, which has 227, and 68, 56 and 34 on GPUs that have 99 (compute capability 8.6 and 8.9); other widths no more.
# With blocks of 64 keys they need up to 193 KiB, and more registers than there are. Float32 is multiplied by plain
# instructions, not by tensor cores: their operands are in registers, which hold small blocks and few columns at a
# time.
BLOCKS = {
    2: {
        256: (Blocks(64, 32, 2, 128), Blocks(32, 32, 2, 128)),
        512: (Blocks(32, 32, 1, 128), Blocks(16, 32, 1, 128)),
        1024: (Blocks(16, 16, 1, 128), Blocks(16, 16, 1, 128)),
    },
    4: {
        256: (Blocks(32, 16, 1, 32), Blocks(16, 32, 1, 32)),
        1024: (Blocks(16, 16, 1, 32), Blocks(16, 16, 1, 32)),
    },
}
MAX_CHANNELS = 1024


def triton_mixture(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None, scale: float
) -> Tensor:
    """:func:`.mixture.dot_product_mixture` by Triton: the same arguments and result.

    q, k and v are multiplied in their own dtype; everything else is float32.

    Raises:
        ValueError: a dtype other than float32, bfloat16 and float16, or too many channels. The operators raise it when
            they run, not where a graph is recorded: without Triton, and for tensors that are not on a CUDA GPU.
    """
    for dtype in (q.dtype, k.dtype, v.dtype):
        if dtype not in DTYPES:
            raise ValueError(
                f"impl is 'triton', which does not compute in {dtype}: take 'auto', 'chunked' or 'reference'"
            )
    if _padded_channels(gate.shape[1], q.shape[2] // gate.shape[1], v.shape[2]) > MAX_CHANNELS:
        raise ValueError(
            f"impl is 'triton', which takes up to {MAX_CHANNELS} channels, and queries have {q.shape[2]} in "
            f"{gate.shape[1]} parts and values {v.shape[2]}: take 'auto', 'chunked' or 'reference'"
        )
    # With a bias as in the "sdpa" path: q and k were computed in float32 from numbers of v's dtype, which holds them.
    dtype = torch.promote_types(q.dtype, k.dtype) if bias is None else v.dtype
    out: Tensor = _TritonMixture.apply(q.to(dtype), k.to(dtype), v, gate, bias, key_mask, scale)[0]
    return out


class _TritonMixture(torch.autograd.Function):
    """Without a jvp, which torch.compile does not take in a Function: torch.func.jvp raises torch's own error."""

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
        *inputs, key_mask, lse = ctx.saved_tensors
        needed = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled():  # create_graph, or torch.func: this derivative may be differentiated in its turn

            def plain(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None) -> Tensor:
                return all_at_once(q, k, v, gate, with_padding(bias, key_mask, torch.float32), ctx.scale)

            return (*plain_gradients(plain, inputs, needed, grad_out), None, None)
        grads = _mixture_backward(grad_out, *inputs, key_mask, lse, ctx.scale)
        return (*(g if need else None for g, need in zip(grads, needed)), None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        *tensors, scale = inputs
        outputs = _TritonMixture.apply(*join_batch(info, in_dims, tensors), scale)
        return tuple(t.unflatten(0, (info.batch_size, -1)) for t in outputs), (0, 0)


class _Problem:
    """One mixture: what all kernels are given of it."""

    def __init__(
        self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None, scale: float
    ) -> None:
        self.device, self.batch, self.num_queries, self.num_keys = q.device, q.shape[0], q.shape[1], k.shape[1]
        num_parts, values = gate.shape[1], v.shape[2]
        width = q.shape[2] // num_parts
        tensors = {"q": q, "k": k, "v": v, "gate": gate, "bias": bias}
        order, lengths = _valid_first(key_mask)
        self.arguments = {
            **{name: None if t is None else t.contiguous() for name, t in tensors.items()},
            **{"order": order, "lengths": lengths, "num_queries": self.num_queries, "num_keys": self.num_keys},
            **{"scale": scale, "factor": scale * math.log2(math.e)},
            **{"PARTS": num_parts, "BIAS_PARTS": 1 if bias is None else bias.shape[1]},
            **{"WIDTH": width, "WIDTH_TILE": _power_of_two(width)},
            **{"VALUES": values, "VALUES_TILE": _power_of_two(values)},
        }
        widest, table = _padded_channels(num_parts, width, values), BLOCKS[max(q.itemsize, v.itemsize)]
        self.of_queries, self.of_keys = next(blocks for channels, blocks in table.items() if widest <= channels)

    def launch_by_queries(self, kernel: str, **own: Any) -> None:
        """Run a kernel whose programs have a block of queries; ``own`` are the arguments that not all kernels have."""
        programs = self.batch * _ceil_div(self.num_queries, self.of_queries.queries)
        self._launch(kernel, self.of_queries, (programs,), own)

    def launch_by_keys(self, kernel: str, runs: int, **own: Any) -> None:
        """The same for a block of keys and one of the runs of queries."""
        programs = self.batch * _ceil_div(self.num_keys, self.of_keys.keys)
        self._launch(kernel, self.of_keys, (programs, runs), own)

    def _launch(self, kernel: str, blocks: Blocks, grid: tuple[int, ...], own: dict[str, Any]) -> None:
        function = getattr(_kernels(self.device), kernel)
        arguments = {**self.arguments, **own, "BLOCK_Q": blocks.queries, "BLOCK_K": blocks.keys}
        for name in ("WIDTH", "VALUES"):
            arguments[f"{name}_CHUNK"] = min(blocks.columns, arguments[f"{name}_TILE"])
        arguments = {name: arguments[name] for name in function.arg_names}
        if 0 not in grid:  # which CUDA refuses
            with torch.cuda.device_of(arguments["q"]):
                function[grid](**arguments, num_warps=NUM_WARPS, num_stages=blocks.stages)

    def runs_of_queries(self) -> tuple[int, int]:
        """How many runs the queries are cut into, and how many queries a run has.

        Few keys have too few blocks to keep a GPU busy with. Each block is given to a program for every run then, and
        what the runs give is summed, in the same order every time.
        """
        programs = self.batch * _ceil_div(self.num_keys, self.of_keys.keys)
        steps = max(1, _ceil_div(self.num_queries, self.of_keys.queries))
        steps_of_run = _ceil_div(steps, max(1, PROGRAMS // max(1, programs)))
        return _ceil_div(steps, steps_of_run), steps_of_run * self.of_keys.queries


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two(size: int) -> int:
    """That ``size`` fits in; 16 is the least that a product takes."""
    return max(16, 1 << (size - 1).bit_length())


def _padded_channels(num_parts: int, width: int, values: int) -> int:
    """Of a key or a value, whichever has more."""
    return max(num_parts * _power_of_two(width), _power_of_two(values))


def _valid_first(key_mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """(B, K) int32, the keys of each image with the valid ones first, and (B,) int32, how many these are.

    A mask is not always a run of valid keys: those of a padded map are a rectangle in its rows. By this order the
    kernels walk over the valid keys alone, wherever they are. They read keys and values and write gradients in their
    places, so that nothing is copied into this order, and the host reads nothing of it.
    """
    if key_mask is None:
        return None, None
    order = (~key_mask).to(torch.uint8).argsort(dim=1, stable=True)
    return order.to(torch.int32), key_mask.sum(1, dtype=torch.int32)


def _kernels(device: torch.device) -> Any:
    """The module of the kernels.

    Raises:
        ValueError: Triton is missing, or cannot run on this device.
    """
    try:
        from . import triton_kernels
    except ImportError as error:
        raise ValueError("impl is 'triton', which needs the package triton: take 'auto'") from error
    if device.type != "cuda" and not triton_kernels.INTERPRETED.value:
        raise ValueError(
            f"impl is 'triton', which needs tensors on a CUDA GPU, and these are on {device}: take 'auto', or set "
            "TRITON_INTERPRET=1 in the environment to try the kernels without one"
        )
    return triton_kernels


@torch.library.custom_op(
    "fpt_d2::triton_mixture",
    mutates_args=(),
    schema=(
        "(Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, Tensor? key_mask, float scale) -> (Tensor, Tensor)"
    ),
)
def _mixture(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None, key_mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """The mixture, and the log-sum-exp of the scores in units of log2: (B, N, Q) float32."""
    problem = _Problem(q, k, v, gate, bias, key_mask, scale)
    out, lse = _outputs(q, k, v, gate)
    problem.launch_by_queries("mixture_forward", out=out, lse=lse)
    return out, lse


@torch.library.custom_op(
    "fpt_d2::triton_mixture_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad_out, Tensor q, Tensor k, Tensor v, Tensor gate, Tensor? bias, Tensor? key_mask, Tensor lse, "
        "float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _mixture_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    bias: Tensor | None,
    key_mask: Tensor | None,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, ...]:
    """Gradients of q, k, v, gate and bias; of a bias that is None an empty one."""
    problem = _Problem(q, k, v, gate, bias, key_mask, scale)
    grad_q, delta = q.new_empty(q.shape), torch.empty_like(lse)
    of_both = {"grad_out": grad_out.contiguous(), "lse": lse, "delta": delta}
    problem.launch_by_queries("mixture_backward_queries", **of_both, grad_q=grad_q)
    runs, split = problem.runs_of_queries()
    grad_k, grad_v = (lse.new_empty(runs, *t.shape) for t in (k, v))
    grad_bias = None if bias is None else lse.new_empty(runs, *lse.shape[:2], k.shape[1])
    of_keys = {"grad_k": grad_k, "grad_v": grad_v, "grad_bias": grad_bias}
    problem.launch_by_keys("mixture_backward_keys", runs, **of_both, **of_keys, split=split)
    of_bias = q.new_empty(0) if grad_bias is None else grad_bias.sum(0)
    if bias is not None:
        of_bias = of_bias.sum_to_size(bias.shape)
    # The gradient of a gate is grad_out times what the part alone puts out: the sum of delta over the queries.
    grads = (grad_q, grad_k.sum(0), grad_v.sum(0), delta.sum(2), of_bias)
    return tuple(grad.to(t.dtype) for grad, t in zip(grads, (q, k, v, gate, of_bias if bias is None else bias)))


def _outputs(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    out = v.new_empty(q.shape[0], q.shape[1], v.shape[2])
    return out, q.new_empty(q.shape[0], gate.shape[1], q.shape[1], dtype=torch.float32)


@_mixture.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _outputs(q, k, v, gate)


@_mixture_backward.register_fake
def _(grad_out: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    q, k, v, gate, bias, *_ = inputs
    return tuple(t.new_empty(t.shape) for t in (q, k, v, gate, q.new_empty(0) if bias is None else bias))


@register_flop_formula(torch.ops.fpt_d2.triton_mixture)
def _(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Two for each multiply-add: the scores of all parts twice, and one product with the values."""
    return 2 * q[0] * q[1] * k[1] * (2 * q[2] + v[2])  # type: ignore[no-any-return]


@register_flop_formula(torch.ops.fpt_d2.triton_mixture_backward)
def _(grad_out: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """The scores and the weights' gradient three times; the gradients of q, k and v."""
    return 2 * q[0] * q[1] * k[1] * (5 * q[2] + 4 * v[2])  # type: ignore[no-any-return]
