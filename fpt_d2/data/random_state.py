"""The global random numbers, which Detectron2's augmentations and models draw, as a function of some integers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(*key: int) -> None:
    """Seed numpy, Python and PyTorch, GPUs included, by non-negative integers such as ``seed, iteration, rank``."""
    torch.manual_seed(_seed_cpu(key))


@contextmanager
def random_numbers(*key: int) -> Iterator[None]:
    """A context in which numpy, Python and PyTorch on the CPU draw what belongs to ``key``; after it, what they did."""
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()
    # Not torch.manual_seed, which is also of GPUs: these are none of a data worker's business.
    torch.default_generator.manual_seed(_seed_cpu(key))
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
        torch.set_rng_state(before[2])


def _seed_cpu(key: tuple[int, ...]) -> int:
    """Seed numpy and Python, and return a seed for PyTorch. Keys that differ in one bit give unrelated numbers."""
    numpy_seed, python_seed, torch_seed = np.random.SeedSequence(key).generate_state(3).tolist()
    np.random.seed(numpy_seed)
    random.seed(python_seed)
    return int(torch_seed)
