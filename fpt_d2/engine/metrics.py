"""``metrics.json`` of a training that was killed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from contextlib import suppress


def cut_metrics(path: str, start: int) -> None:
    """Cut off the lines that a killed training has written of iterations from ``start`` on, which come again.

    A line that it has written in part is cut off too. What was written by the evaluation at an end stays. With 0, where
    another training begins, all whole lines stay.
    """
    if not os.path.isfile(path):
        return
    with open(path, "rb+") as file:
        place = end = 0
        for line in file:
            if start > 0 and _is_step_from(start, line):
                break
            place += len(line)
            if line.endswith(b"}\n"):
                end = place
        file.truncate(end)


def _is_step_from(start: int, line: bytes) -> bool:
    iteration = re.search(rb'"iteration": (\d+)', line)
    return (
        iteration is not None
        and int(iteration[1]) >= start
        and re.search(b'"total_loss"|"eta_seconds"', line) is not None
    )


def written_names(path: str, iterations: Collection[int]) -> dict[int, set[str]]:
    """By iteration the names of what ``metrics.json`` has of it."""
    names: dict[int, set[str]] = {iteration: set() for iteration in iterations}
    if os.path.isfile(path):
        with open(path, "rb") as file:
            for line in file:
                found = re.search(rb'"iteration": (\d+)[,}]', line)
                if found and int(found[1]) in names:
                    with suppress(ValueError, TypeError):  # two lines in one, of a kill before this version
                        names[int(found[1])].update(json.loads(line))
    return names
