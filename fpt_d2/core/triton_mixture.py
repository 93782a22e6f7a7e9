"""The mixture of softmaxes by Triton's kernels, for CUDA GPUs: ``impl="triton"``.

The two passes are operators, ``torch.ops.fpt_d2.triton_mixture`` and ``triton_mixture_backward``, so that
torch.compile, torch.export, fake tensors and the FLOP counter see one each. Memory is linear: of the scores the
forward pass keeps a log-sum-exp for each query, and the backward pass computes them again. In half precision they are
faster than torch's fused attention, by the more, the more parts there are, and "auto" takes them; in float32 they are
several times slower. The tests run them in Triton's interpreter on the CPU, or on a GPU where there is one.

Shape legend: B batch, N parts of the mixture, Q queries, K keys, C query and key channels, D = C / N, V value channels.
"""

from __future__ import annotations

import logging
import math
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .mixture import all_at_once, join_batch, plain_gradients, with_padding

logger = logging.getLogger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Programs that keep a large GPU busy: two for each multiprocessor of an H100.
PROGRAMS = 264


class Blocks(NamedTuple):
    """How a kernel cuts its work.

    Attributes:
        queries, keys: of a block. stages: blocks in shared memory, of which one is in use and the others are on their
            way. columns: at most so many does a product sum in one step. warps: of a program.
    """

    queries: int
    keys: int
    stages: int
    columns: int
    warps: int


class Plan(NamedTuple):
    """The blocks of each kernel; programs of the first two have a block of queries, of the third one of keys."""

    forward: Blocks
    backward_queries: Blocks
    backward_keys: Blocks


# By bytes of a number, and by channels of the wider of a key and a value, each part padded. Those of half precision up
# to 256 channels are the fastest of some twenty on an H100, where a program may have 227 KiB of shared memory; they
# need up to 193. Float32 is multiplied by plain instructions, not by tensor cores: its operands are in registers, which
# hold small blocks and few columns at a time. What tf32x3 computes on the tensor cores is no faster than torch's own.
PLANS = {
    2: {
        64: Plan(Blocks(64, 64, 2, 128, 4), Blocks(64, 32, 3, 128, 4), Blocks(32, 64, 2, 128, 4)),
        256: Plan(Blocks(128, 64, 2, 128, 8), Blocks(128, 32, 2, 256, 8), Blocks(64, 32, 2, 256, 4)),
        512: Plan(Blocks(32, 32, 1, 128, 8), Blocks(32, 32, 1, 128, 8), Blocks(16, 32, 1, 128, 8)),
        1024: Plan(*[Blocks(16, 16, 1, 128, 8)] * 3),
    },
    4: {
        256: Plan(Blocks(32, 16, 1, 32, 8), Blocks(32, 16, 1, 32, 8), Blocks(16, 32, 1, 32, 8)),
        1024: Plan(*[Blocks(16, 16, 1, 32, 8)] * 3),
    },
}
# In place of the largest of these on GPUs that have less shared memory (99 KiB with compute capability 8.6 and 8.9, 163
# with 8.0), where no clock has seen them.
LARGE_SHARED_MEMORY = 200 * 1024
SMALL_PLANS = {256: Plan(Blocks(64, 32, 2, 128, 4), Blocks(64, 32, 2, 128, 4), Blocks(32, 32, 2, 256, 4))}
# Up to so many channels "auto" takes the kernels.
MEASURED_CHANNELS = 256
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


def is_faster(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor | None) -> bool:
    """Whether the kernels can run here and were measured to be faster than torch's fused attention."""
    products = torch.promote_types(q.dtype, k.dtype) if bias is None else v.dtype
    is_half = products.itemsize == v.dtype.itemsize == 2
    if v.device.type != "cuda" or not is_half or not v.shape[0]:
        return False
    channels = _padded_channels(gate.shape[1], q.shape[2] // gate.shape[1], v.shape[2])
    return channels <= MEASURED_CHANNELS and _run_on(v.device)


@cache
def _run_on(device: torch.device) -> bool:
    """Whether kernels can be compiled for, and started on, a GPU; found by trying, once."""
    if find_spec("triton") is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    x = torch.zeros(1, 16, 16, dtype=torch.bfloat16, device=device)
    try:
        _mixture(x, x, x, x.new_ones(1, 1), None, None, 1.0)
    except Exception:  # whatever Triton, its compiler or the C compiler that it needs may raise
        logger.warning("Triton does not run on %s, torch's attention is used instead", device, exc_info=True)
        return False
    return True


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
        widest = _padded_channels(num_parts, width, values)
        self.plan = _plan(max(q.itemsize, v.itemsize), widest, _shared_memory(self.device))

    def launch_by_queries(self, kernel: str, **own: Any) -> None:
        """Run a kernel whose programs have a block of queries; ``own`` are the arguments that not all kernels have."""
        blocks: Blocks = getattr(self.plan, kernel)
        self._launch(kernel, blocks, (self.batch * _ceil_div(self.num_queries, blocks.queries),), own)

    def launch_by_keys(self, kernel: str, runs: int, **own: Any) -> None:
        """The same for a block of keys and one of the runs of queries."""
        blocks: Blocks = getattr(self.plan, kernel)
        self._launch(kernel, blocks, (self.batch * _ceil_div(self.num_keys, blocks.keys), runs), own)

    def _launch(self, kernel: str, blocks: Blocks, grid: tuple[int, ...], own: dict[str, Any]) -> None:
        function = getattr(_kernels(self.device), f"mixture_{kernel}")
        arguments = {**self.arguments, **own, "BLOCK_Q": blocks.queries, "BLOCK_K": blocks.keys}
        for name in ("WIDTH", "VALUES"):
            arguments[f"{name}_CHUNK"] = min(blocks.columns, arguments[f"{name}_TILE"])
        arguments = {name: arguments[name] for name in function.arg_names}
        if 0 not in grid:  # which CUDA refuses
            with torch.cuda.device_of(arguments["q"]):
                function[grid](**arguments, num_warps=blocks.warps, num_stages=blocks.stages)

    def runs_of_queries(self) -> tuple[int, int]:
        """How many runs the queries are cut into, and how many queries a run has.

        Few keys have too few blocks to keep a GPU busy with. Each block is given to a program for every run then, and
        what the runs give is summed, in the same order every time.
        """
        blocks = self.plan.backward_keys
        programs = self.batch * _ceil_div(self.num_keys, blocks.keys)
        steps = max(1, _ceil_div(self.num_queries, blocks.queries))
        steps_of_run = _ceil_div(steps, max(1, PROGRAMS // max(1, programs)))
        return _ceil_div(steps, steps_of_run), steps_of_run * blocks.queries


def _plan(itemsize: int, channels: int, shared_memory: int) -> Plan:
    plans = PLANS[itemsize]
    if itemsize == 2 and shared_memory < LARGE_SHARED_MEMORY:
        plans = plans | SMALL_PLANS
    return next(plan for most, plan in plans.items() if channels <= most)


def _shared_memory(device: torch.device) -> int:
    """Bytes that a program may have."""
    if device.type != "cuda":  # in Triton's interpreter
        return LARGE_SHARED_MEMORY
    return int(getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0))


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
    problem.launch_by_queries("forward", out=out, lse=lse)
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
    problem.launch_by_queries("backward_queries", **of_both, grad_q=grad_q)
    runs, split = problem.runs_of_queries()
    grad_k, grad_v = (lse.new_empty(runs, *t.shape) for t in (k, v))
    grad_bias = None if bias is None else lse.new_empty(runs, *lse.shape[:2], k.shape[1])
    of_keys = {"grad_k": grad_k, "grad_v": grad_v, "grad_bias": grad_bias}
    problem.launch_by_keys("backward_keys", runs, **of_both, **of_keys, split=split)
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
