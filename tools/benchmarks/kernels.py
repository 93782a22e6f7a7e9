"""Attention by itself: queries of p2 against keys of p3, or of p2 pooled to that size (the same numbers of both).

An image of 512 x 512 has 16384 queries and 4096 keys. All have 256 channels, or 64 in the cases that say so: there a
part of four has 16, and the work on each score outweighs the products. A case of ``MAX_KEYS`` keys has as many of them
as the main configs keep.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from fpt_d2 import core
from fpt_d2.core import reference

from .workload import Entry, Setting, Workload

CHANNELS, NARROW_CHANNELS = 256, 64
SQUARE_SIZE = 5
TEXTBOOK = ("textbook",)
MAX_KEYS = 1024  # MODEL.FPT.MAX_KV_TOKENS of configs/Base-RCNN-FPT.yaml
NARROW_KEYS = 256
BOUNDED = f", {MAX_KEYS} keys"
NARROW = f", {NARROW_CHANNELS} channels, {NARROW_KEYS} keys"
# What a mixture is measured with: a suffix of its case, keys (0: as many as the level has), channels.
SIZES = (("", 0, CHANNELS), (BOUNDED, MAX_KEYS, CHANNELS), (NARROW, NARROW_KEYS, NARROW_CHANNELS))
DOT = "GT dot"
LOCAL = f"LGT {SQUARE_SIZE}x{SQUARE_SIZE}"

# case, parts of the mixture, similarity. The paper has two parts in ST and four in GT. Here a self transformer and an
# embedded grounding of as many parts are the same computation.
MIXTURES = (
    ("ST N=4", 4, "embedded"),
    ("ST N=2", 2, "embedded"),
    ("GT Euclidean N=4", 4, "euclidean"),
    ("GT Euclidean N=2", 2, "euclidean"),
    ("GT Euclidean N=1", 1, "euclidean"),
    ("GT embedded N=1", 1, "embedded"),
)


def entries(device: str) -> list[Entry]:
    """Ours as "auto" computes it, the other ways to compute it, and the textbook."""
    table = []
    for case, num_parts, similarity in MIXTURES:
        for suffix, *size in SIZES if num_parts > 1 else SIZES[:2]:
            ours = partial(core.mixture_attention, similarity=similarity)
            theirs = partial(reference.mixture_attention, similarity=similarity)
            outline = partial(_of_tokens, theirs, num_parts, *size)
            forms = {"ours": ours, **{f"ours ({name})": partial(ours, impl=name) for name in other_paths(device)}}
            for name, form in forms.items():
                make = partial(_of_tokens, form, num_parts, *size)
                table.append(Entry(case + suffix, name, make, outline, TEXTBOOK))
            table.append(Entry(case + suffix, *TEXTBOOK, outline, outline))
    ours = partial(core.local_mixture_attention, square_size=SQUARE_SIZE, similarity="euclidean")
    theirs = partial(reference.local_mixture_attention, square_size=SQUARE_SIZE, similarity="euclidean")
    for case, make, outline in (
        (DOT, *(partial(_of_tokens, m.linear_attention, 0, 0, CHANNELS) for m in (core, reference))),
        (LOCAL, partial(_of_maps, ours), partial(_of_maps, theirs)),
    ):
        table += [Entry(case, "ours", make, baseline=TEXTBOOK), Entry(case, *TEXTBOOK, outline, outline)]
    return table


def other_paths(device: str) -> list[str]:
    """The values of ``impl`` that are worth a measurement beside "auto"."""
    if device == "cpu":
        return ["sdpa"]
    return ["chunked", "sdpa", *(["triton"] if find_spec("triton") else [])]


def _of_tokens(
    function: Callable[..., Tensor], num_parts: int, max_keys: int, channels: int, setting: Setting
) -> Workload:
    """``max_keys`` 0: as many as the level has."""
    fine, coarse = (h * w for h, w in (setting.level(4), setting.level(8)))
    coarse = min(coarse, max_keys or coarse)
    inputs = [_random(setting, n, channels) for n in (fine, coarse, coarse)]
    return _workload(function, inputs + ([_gate(setting, num_parts)] if num_parts else []))


def _of_maps(function: Callable[..., Tensor], setting: Setting) -> Workload:
    inputs = [_random(setting, CHANNELS, *setting.level(stride)) for stride in (4, 8, 8)]
    return _workload(function, [*inputs, _gate(setting, 4)])


def _workload(function: Callable[..., Tensor], inputs: list[Tensor]) -> Workload:
    return Workload(lambda training: [function(*inputs)], [t for t in inputs if t.requires_grad])


def _random(setting: Setting, *shape: int) -> Tensor:
    return torch.randn(setting.batch, *shape, device=setting.device, dtype=setting.dtype, requires_grad=True)


def _gate(setting: Setting, num_parts: int) -> Tensor:
    """Weights of the parts, float32 as ours are, wider for float64 inputs; a single part's is one and not learned."""
    dtype = torch.promote_types(setting.dtype, torch.float32)
    return _random(setting, num_parts).detach().to(dtype).softmax(1).requires_grad_(num_parts > 1)
