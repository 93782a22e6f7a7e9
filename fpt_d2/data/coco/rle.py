"""Masks by run lengths, as COCO's RLE has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pycocotools.mask as mask_util


def box_of_rle(rle: Mapping[str, Any]) -> np.ndarray:
    """The box (4,) around the pixels of an RLE that is right: x, y, width, height; all 0 where it has none."""
    packed = mask_util.frPyObjects(rle, *rle["size"]) if isinstance(rle["counts"], list) else rle
    box: np.ndarray = mask_util.toBbox(packed)
    return box


def rle_problem(rle: Mapping[str, Any], height: int, width: int) -> str | None:
    """What is wrong with the ``size`` or the ``counts`` of an RLE for an image of this size, if anything."""
    if rle["size"] != [height, width]:
        return "RLE does not fit the size of its image"
    counts = rle["counts"]
    runs = _decompress(counts) if isinstance(counts, str) else np.array(counts, dtype=np.float64)
    if runs is None or (runs < 0).any() or runs.sum() != height * width:
        return "RLE counts do not add up to the pixels of its image"
    return None


def _decompress(counts: str) -> np.ndarray | None:
    """The runs of a compressed RLE, float64; None where it is something else.

    Each is in characters from "0" on of 6 bits: 5 of the number, the lowest first and negative by the last one's
    highest bit, and one that says that more come. From the fourth run on they are differences from the one two before.
    pycocotools' own decoder trusts what it is given.
    """
    codes = np.frombuffer(counts.encode("latin-1", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if ((codes < 0) | (codes > 63)).any() or codes[-1] & 0x20:
        return None
    is_last = codes & 0x20 == 0
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(np.append(starts, len(codes)))
    if lengths.max() > 7:  # 35 bits
        return None
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 0x1F) << 5 * places, starts)
    numbers -= np.where(codes[is_last] & 0x10, 1 << 5 * lengths, 0)
    runs = numbers.astype(np.float64)
    for first in (1, 2):  # the run at 0 stands alone
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
