"""Splits of a set that has none of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from math import floor
from typing import Any

from ...errors import DatasetError


def split_by_seed(strata: Mapping[str, Any], val_share: float, seed: int) -> dict[str, list[str]]:
    """Split names into ``train`` and ``val``, in which every stratum has its share.

    The names are sorted by stratum and, within each, by a hash of seed and name; then one in every ``1 / val_share``
    is taken. So it depends on nothing but the names, on no library's random numbers.

    Args:
        strata: the stratum of each name, of any kind that can be sorted.

    Raises:
        DatasetError: there is no such share, or too few images for two splits.
    """
    if not 0 < val_share < 1:
        raise DatasetError(f"The share of the split val must be between 0 and 1, not {val_share:g}: set --val-share")
    if len(strata) < 2:
        raise DatasetError("One image is too few for the splits train and val: add images")

    def key(name: str) -> tuple[Any, bytes]:  # of any name: which of them cannot be written is said when they are read
        return strata[name], hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()

    order = sorted(strata, key=key)
    is_val = [floor((i + 1) * val_share) > floor(i * val_share) for i in range(len(order))]
    names = {split: sorted(n for n, v in zip(order, is_val) if v == (split == "val")) for split in ("train", "val")}
    if not all(names.values()):
        raise DatasetError(
            f"A share of {val_share:g} of {len(order)} images leaves train or val empty: set another --val-share"
        )
    return names
