"""Section "correctness" of the GPU report: every path against the textbook in float64 on the CPU, with all gradients.

Inputs are numbers that each of the four dtypes holds, so that one result of the textbook serves them all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fpt_d2 import core
from fpt_d2.core import reference

from .findings import Findings, Row, last_line
from .kernels import other_paths

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Largest error allowed of a result; see relative_error. A gradient in half precision may have twice that: it is a sum
# of products, each of which was rounded. A pyramid is several layers in a row, in half precision under autocast.
TOLERANCES = {
    "attention": {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 3e-3},
    "pyramid": {torch.float64: 1e-11, torch.float32: 5e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3},
}
HALF = (torch.bfloat16, torch.float16)
INPUTS = ("q", "k", "v", "gate")


@dataclass(frozen=True)
class Sizes:
    """Of one comparison: queries and keys, as numbers or as maps; channels of a part; value channels; images."""

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    width: int
    values: int
    batch: int = 2

    def __str__(self) -> str:
        return " over ".join(" x ".join(map(str, side)) for side in (self.queries, self.keys))


def correctness_section(findings: Findings, device: str, quick: bool, share: tuple[int, int] = (0, 1)) -> None:
    """Compare all paths.

    Args:
        share: (i, n) takes every n-th comparison from the i-th on.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    first, step = share
    for name, compare in list(_comparisons(device, quick))[first::step]:
        if findings.has_time(name):
            try:
                findings.add("errors", *compare())
            except Exception as error:  # of the textbook: those of a path are rows
                findings.add("errors", _failed("textbook", None, name, error))


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The larger one of ``|a - b| / |b|`` by the Euclidean norm and by the largest number; inf where one is not finite.

    The first is what rounding adds up to, the second shows a single wrong row.
    """
    if not torch.isfinite(actual).all():
        return float("inf")
    difference, size = (actual.double() - expected).flatten(), expected.flatten()
    return max(float(difference.norm(p) / size.norm(p).clamp(min=1e-300)) for p in (2, torch.inf))


def summary(rows: Sequence[Row]) -> list[Row]:
    """The worst of each path and dtype."""
    table = []
    for path, dtype in sorted(dict.fromkeys((row["path"], row["dtype"]) for row in rows), key=_order):
        some = [row for row in rows if (row["path"], row["dtype"]) == (path, dtype)]
        done = [row for row in some if row["value"] is not None]
        worst = max(done, key=lambda row: row["gradient"], default={})
        failed = [row for row in some if not row["passes"]]
        table.append(
            {
                "path": path,
                "dtype": dtype,
                "cases": len(some),
                "worst result": max((row["value"] for row in done), default=None),
                "may be": some[0]["value tolerance"],
                "worst gradient": worst.get("gradient"),
                "of": worst.get("of"),
                "may be ": some[0]["gradient tolerance"],
                "": f"{len(failed)} FAIL" if failed else "pass",
                "first failure": f"{failed[0]['case']}: {failed[0]['note'] or 'error too large'}" if failed else "",
            }
        )
    return table


def _order(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], [_name(dtype) for dtype in DTYPES].index(key[1]) if key[1] else -1


def _comparisons(device: str, quick: bool) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """Name and function of each; it returns the rows of all paths and dtypes."""
    similarities, parts = ("embedded", "euclidean"), (1, 2, 4)
    if not quick:  # the longest first, for whoever shares the work
        real = Sizes((4200,), (1024,), 0, 256)
        for i, (similarity, n) in enumerate((s, n) for s in similarities for n in parts):
            yield _mixture(device, real, 256 // n, similarity, n, masked=i % 2 == 1)
        yield _linear(device, Sizes((4200,), (1024,), 256, 256), masked=True)
        yield _local(device, Sizes((60, 70), (30, 35), 64, 256), 5, "euclidean", 4, masked=False)
    for family in ("paper", "summed at stride 8") if quick else _families("auto"):
        for padded in (True,) if quick else (False, True):
            yield f"pyramid, {family}, {_padded(padded)}", partial(_pyramid, device, family, padded)
    for similarity in similarities:
        for n in parts[:2] if quick else parts:
            for masked in (False, True):
                yield _mixture(device, Sizes((300,), (77,), 0, 32), 16, similarity, n, masked=masked)
                if not quick or n == 2:
                    yield _local(device, Sizes((18, 22), (9, 11), 4, 12), 3, similarity, n, masked=masked)
    for masked in (False, True):
        yield _linear(device, Sizes((64,), (40,), 12, 6), masked=masked)


def _mixture(
    device: str, sizes: Sizes, width: int, similarity: str, num_parts: int, *, masked: bool
) -> tuple[str, Callable[[], list[Row]]]:
    options = {"similarity": similarity}
    textbook = partial(reference.mixture_attention, **options)
    impls = ["auto", *(impl for impl in ("chunked", "sdpa", "triton") if impl in [*other_paths(device), "chunked"])]
    paths = {f"mixture, {impl}": partial(core.mixture_attention, impl=impl, **options) for impl in impls}
    name = f"{similarity}, N = {num_parts}, {_masked(masked)}, {sizes}"
    sizes = Sizes(sizes.queries, sizes.keys, width, sizes.values)
    return f"mixture, {name}", partial(_compare, device, name, paths, textbook, sizes, num_parts, masked)


def _linear(device: str, sizes: Sizes, *, masked: bool) -> tuple[str, Callable[[], list[Row]]]:
    name = f"{_masked(masked)}, {sizes}"
    paths = {"linear": core.linear_attention}
    return f"linear, {name}", partial(_compare, device, name, paths, reference.linear_attention, sizes, 0, masked)


def _local(
    device: str, sizes: Sizes, square_size: int, similarity: str, num_parts: int, *, masked: bool
) -> tuple[str, Callable[[], list[Row]]]:
    options = {"square_size": square_size, "similarity": similarity}
    name = f"{similarity}, N = {num_parts}, {_masked(masked)}, {sizes}"
    textbook = partial(reference.local_mixture_attention, **options)
    paths = {"local": partial(core.local_mixture_attention, **options)}
    return f"local, {name}", partial(_compare, device, name, paths, textbook, sizes, num_parts, masked)


def _compare(
    device: str,
    case: str,
    paths: dict[str, Callable[..., Tensor]],
    textbook: Callable[..., Tensor],
    sizes: Sizes,
    num_parts: int,
    masked: bool,
) -> list[Row]:
    """A row for each path and dtype; without parts there is no gate."""
    inputs, mask = _inputs(sizes, num_parts, masked)
    cotangent = _draw(1, textbook(*inputs, key_mask=mask).shape)
    expected = _values_and_gradients(partial(textbook, key_mask=mask), inputs, cotangent)
    rows = []
    for path, function in paths.items():
        for dtype in DTYPES:
            if dtype == torch.float64 and path.endswith("triton"):  # which does not compute in it
                continue
            try:
                there = [t.to(device, dtype) for t in inputs]
                of_mask = partial(function, key_mask=None if mask is None else mask.to(device))
                actual = _values_and_gradients(of_mask, there, cotangent.to(device, dtype))
                if actual[0].dtype != dtype:
                    raise TypeError(f"the result is {_name(actual[0].dtype)}")
                errors = [relative_error(a.cpu(), e) for a, e in zip(actual, expected)]
                rows.append(_row(path, dtype, case, "attention", errors[0], dict(zip(INPUTS, errors[1:]))))
            except Exception as error:
                rows.append(_failed(path, dtype, case, error))
    return rows


def _inputs(sizes: Sizes, num_parts: int, masked: bool) -> tuple[list[Tensor], Tensor | None]:
    """q, k, v and, where there are parts, their gate in float64 on the CPU; the mask of the keys."""

    def positions(side: tuple[int, ...], channels: int) -> tuple[int, ...]:
        return (sizes.batch, *side, channels) if len(side) == 1 else (sizes.batch, channels, *side)

    channels = max(1, num_parts) * sizes.width
    shapes = [positions(*of) for of in ((sizes.queries, channels), (sizes.keys, channels), (sizes.keys, sizes.values))]
    inputs = [_draw(seed, shape) for seed, shape in enumerate(shapes)]
    if num_parts:
        inputs.append(_rounded(_draw(3, (sizes.batch, num_parts)).softmax(1)))
    if not masked:
        return inputs, None
    mask = torch.rand(sizes.batch, *sizes.keys, generator=torch.Generator().manual_seed(4)) > 0.4
    mask.view(sizes.batch, -1)[:, 0] = True
    return inputs, mask


def _draw(seed: int, shape: Sequence[int]) -> Tensor:
    return _rounded(torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def _rounded(x: Tensor) -> Tensor:
    """The nearest numbers that bfloat16 and float16 hold, in float64."""
    return x.to(torch.bfloat16).to(torch.float16).double()


def _values_and_gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, cotangent, materialize_grads=True)]


def _families(impl: str) -> dict[str, dict[str, Any]]:
    """Options of a transform by name; those of the paper, and how they are made cheaper."""
    st, gt = (partial(branch, impl=impl) for branch in (core.SelfTransformer, core.GroundingTransformer))
    bounded = {"st": partial(st, max_kv_tokens=50), "gt": partial(gt, max_kv_tokens=50)}
    return {
        "paper": {"st": st, "gt": gt},
        "keys bounded": bounded,
        "with a square": {"st": st, "gt": partial(core.LocalGroundingTransformer, square_size=3)},
        "with dot grounding": {"st": st, "gt": core.LinearGroundingTransformer},
        "summed at stride 8": {**bounded, "fuse": "sum", "min_stride": 8},
    }


def _pyramid(device: str, family: str, padded: bool) -> list[Row]:
    """ST, GT and RT between four levels."""
    strides, channels = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}, 32
    # The square follows the strides only where sizes are multiples of them.
    small = (64, 96) if family == "with a square" else (70, 100)
    canvas, images = (96, 160), [(96, 160), small]
    sizes = {n: (canvas[0] // s, canvas[1] // s) for n, s in strides.items()}
    features = {n: _draw(i, (2, channels, *sizes[n])) for i, n in enumerate(strides)}

    def build(impl: str) -> core.PyramidTransform:
        return _randomized(core.PyramidTransform(strides, channels, channels=channels, **_families(impl)[family]))

    def valid_on(place: str) -> core.ValidSizes | None:
        return core.ValidSizes.of(images, torch.empty(2, 1, *canvas, device=place)) if padded else None

    valid = valid_on("cpu")
    numbers = None if valid is None else {n: valid.at(torch.Size(size)).numbers for n, size in sizes.items()}
    slow = copy.deepcopy(build("auto")).double()
    expected = _pyramid_values(lambda x: reference.pyramid_transform(slow, x, numbers), slow, features)
    rows = []
    for impl in ("auto", *(["triton"] if "triton" in other_paths(device) else [])):
        for dtype in DTYPES:
            path, case = f"pyramid, {impl}", f"{family}, {_padded(padded)}"
            if dtype == torch.float64 and impl == "triton":
                continue
            try:
                fast = build(impl).to(device, torch.float32 if dtype in HALF else dtype)
                there = {n: x.to(fast.st["p2"].query.weight) for n, x in features.items()}
                with torch.autocast(device, dtype, enabled=dtype in HALF):
                    actual = _pyramid_values(partial(fast, valid=valid_on(device)), fast, there)
                errors = {n: relative_error(actual[n].cpu(), e) for n, e in expected.items()}
                rows.append(_row(path, dtype, case, "pyramid", errors.pop("values"), errors))
            except Exception as error:
                rows.append(_failed(path, dtype, case, error))
    return rows


def _randomized(transform: core.PyramidTransform) -> core.PyramidTransform:
    """Random values for every parameter, biases included, of a size that keeps a map's."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in transform.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=random) * fan_in**-0.5)
    return transform


def _pyramid_values(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]], module: nn.Module, features: dict[str, Tensor]
) -> dict[str, Tensor]:
    """All results, and all gradients of the maps and of the parameters, each as one vector.

    Some parameters have no gradient of their own, a key's bias under a softmax: it is rounding alone, and counts
    beside those of the others.
    """
    leaves = {n: x.detach().clone().requires_grad_() for n, x in features.items()}
    outputs = list(function(leaves).values())
    cotangents = [_draw(i, y.shape).to(y) for i, y in enumerate(outputs)]
    wanted = [*leaves.values(), *module.parameters()]
    grads = torch.autograd.grad(outputs, wanted, cotangents, materialize_grads=True)
    parts = {"values": outputs, "maps": grads[: len(leaves)], "parameters": grads[len(leaves) :]}
    return {name: torch.cat([t.detach().flatten().double() for t in tensors]) for name, tensors in parts.items()}


def _row(path: str, dtype: torch.dtype, case: str, kind: str, value: float, gradients: dict[str, float]) -> Row:
    tolerance, of = TOLERANCES[kind][dtype], max(gradients, key=lambda name: gradients[name])
    of_gradient = tolerance * (2 if dtype in HALF else 1)
    return {
        "path": path,
        "dtype": _name(dtype),
        "case": case,
        "value": value,
        "value tolerance": tolerance,
        "gradient": gradients[of],
        "of": of,
        "gradient tolerance": of_gradient,
        "gradients": gradients,
        "passes": value <= tolerance and gradients[of] <= of_gradient,
        "note": "",
    }


def _failed(path: str, dtype: torch.dtype | None, case: str, error: Exception) -> Row:
    blank = dict.fromkeys(("value", "value tolerance", "gradient", "of", "gradient tolerance", "gradients"))
    name = None if dtype is None else _name(dtype)
    return {"path": path, "dtype": name, "case": case, **blank, "passes": False, "note": last_line(error)}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _masked(masked: bool) -> str:
    return "masked" if masked else "whole"


def _padded(padded: bool) -> str:
    return "padded" if padded else "whole"
