"""Run by test_fresh_process.py: what an import loads, and how far each path raises the memory, in MiB.

The high-water mark never falls, so that the first path that holds a matrix shows, and the control goes last. Detectron2
and its relatives cannot be imported here: the mathematics needs torch alone.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

BLOCKED = ("detectron2", "LabGym", "fvcore", "iopath", "torchvision", "cv2", "yacs", "omegaconf", "matplotlib", "PIL")
for name in BLOCKED:
    sys.modules[name] = None  # type: ignore[assignment]  # as Python marks what it must not import
warnings.simplefilter("ignore")

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

before = set(sys.modules)
from fpt_d2 import core  # noqa: E402

loaded = {name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
loaded |= {name for name in sys.modules if name.startswith("fpt_d2.core.triton")}  # on demand only

CHANNELS, PARTS = 16, 2
core.mixture.STEP_BYTES = 2**18  # smaller steps for smaller maps than the real ones


def high_water_mark() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def tokens(side: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """side x side queries, a quarter as many keys and values, a gate."""
    shapes = [(1, side**2, CHANNELS), *[(1, side**2 // 4, CHANNELS)] * 2]
    return [*(torch.randn(s).to(dtype) for s in shapes), torch.full((1, PARTS), 1 / PARTS, dtype=dtype)]


def maps(side: int, *scales: int) -> list[Tensor]:
    return [torch.randn(1, CHANNELS, side // s, side // s) for s in scales]


def paths(side: int) -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    padded = torch.arange(side**2 // 4).unsqueeze(0) < side**2 // 5
    for impl in ("chunked", "sdpa"):
        attend: Callable[..., Any] = partial(core.mixture_attention, impl=impl)
        yield f"{impl} embedded", attend, tokens(side)
        attend = partial(attend, similarity="euclidean", key_mask=padded)
        yield f"{impl} euclidean masked bfloat16", attend, tokens(side, torch.bfloat16)
    yield "linear", core.linear_attention, tokens(side)[:3]
    gate = torch.full((1, PARTS), 1 / PARTS)
    square = partial(core.local_mixture_attention, square_size=5)
    yield "square", lambda *inputs: square(*inputs, gate), maps(side, 1, 2, 2)
    yield "grounding transformer", on_maps(core.GroundingTransformer(CHANNELS, num_parts=1)), maps(side, 1, 2)
    yield "self transformer", on_maps(core.SelfTransformer(CHANNELS, num_parts=1, kv_stride=2)), maps(side, 1)


def on_maps(branch: core.Branch) -> Callable[..., Tensor]:
    return lambda target, *source: branch(core.Level(target), core.Level(*source or (target,)))


def train(function: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    out = function(*(t.requires_grad_() for t in inputs))
    out.float().square().mean().backward()


def main(side: int) -> None:
    torch.manual_seed(0)
    for _, function, inputs in paths(16):  # loads what a first use loads
        train(function, inputs)
    start, peaks = high_water_mark(), {}
    for name, function, inputs in paths(side):
        train(function, inputs)
        peaks[name] = high_water_mark() - start
    with torch.no_grad():
        core.mixture_attention(*tokens(side)[:3], torch.ones(1, 1), impl="reference")
    peaks["reference"] = high_water_mark() - start
    assert all(sys.modules[name] is None for name in BLOCKED)
    print(json.dumps({"peaks": peaks, "loaded": sorted(loaded)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
