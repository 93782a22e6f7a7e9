"""Does FPT look at what decides? In scenes whose classes a cue tells, how much of the attention lies on the cue.

The objects asked about are those of the data set's ``context_classes``, by their annotated boxes, each at the level
from which the box head pools it; the cues are the objects of its ``cue_classes``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from torch import Tensor

from ..errors import UserError
from .attention import Exploration, Gathered, explore


@dataclass(frozen=True)
class OnCue:
    """Of one scene, or the mean of several.

    Attributes:
        peak: 1 where the most attended place is in the box of a cue, else 0.
        mass: share of the attention in the boxes of the cues.
        area: their share of the image, which is what attention spread evenly would have.
        mass_from: ``mass`` of each branch alone, by its name, such as "GT from p4".
    """

    peak: float
    mass: float
    area: float
    mass_from: dict[str, float]


def attention_of_pixels(
    exploration: Exploration, size: tuple[int, int], branches: Sequence[Gathered] | None = None
) -> Tensor:
    """How much each pixel of an image of this size (height, width) is attended to: (height, width), of a sum of one.

    The softmax branches together, weighted by their shares. A position spreads its weight evenly over its pixels.

    Args:
        branches: some of those of the exploration; default: all that have softmaxes.

    Raises:
        UserError: none of them has softmaxes and puts out anything.
    """
    total = torch.zeros(size)
    for gathered in exploration.gathered if branches is None else branches:
        if gathered.parts is not None:
            rows, columns = (
                ((torch.arange(n) + 0.5) * extent / n).long().clamp(max=side - 1)
                for n, extent, side in zip(size, exploration.size[gathered.source], gathered.map.shape)
            )
            spread = gathered.map.float()[rows[:, None], columns]
            counts = rows.bincount()[rows][:, None] * columns.bincount()[columns]
            total += gathered.share * spread / counts
    if not total.sum() > 0:
        raise UserError("No branch with softmaxes puts out anything where the objects are: nothing is attended to")
    return total / total.sum()


def measure_on_cue(predictor: Any, image: np.ndarray, record: dict[str, Any], metadata: Metadata) -> OnCue | None:
    """What the attention of a scene's decided objects, their mean, has on its cues; None without either.

    Args:
        predictor: as for :func:`.attention.explore`.
        image: (H, W, 3) uint8 BGR.
        record: in Detectron2's dataset format.
        metadata: with :func:`cue_classes`.

    Raises:
        UserError: see :func:`.attention.explore` and :func:`attention_of_pixels`.
    """
    decided, cues = (_boxes(record, metadata, names) for names in (metadata.context_classes, cue_classes(metadata)))
    if not decided or not cues:
        return None
    size = image.shape[0], image.shape[1]
    on_cue = torch.zeros(size, dtype=torch.bool)
    for x1, y1, x2, y2 in cues:
        on_cue[round(y1) : max(round(y2), round(y1) + 1), round(x1) : max(round(x2), round(x1) + 1)] = True
    explorations = [explore(predictor, image, box) for box in decided]
    total = sum((attention_of_pixels(some, size) for some in explorations), torch.zeros(size)) / len(explorations)
    of_branches: dict[str, list[float]] = {}
    for some in explorations:
        for gathered in some.gathered:
            if gathered.parts is not None and gathered.share > 0:
                alone = attention_of_pixels(some, size, [gathered])
                of_branches.setdefault(gathered.name, []).append(float(alone[on_cue].sum()))
    return OnCue(
        float(on_cue[_peak(total)]),
        float(total[on_cue].sum()),
        float(on_cue.float().mean()),
        {name: fmean(values) for name, values in of_branches.items()},
    )


def mean_on_cue(scenes: Sequence[OnCue]) -> OnCue:
    """The mean of one or more scenes; for each branch, of the scenes that have it."""
    names = dict.fromkeys(name for scene in scenes for name in scene.mass_from)
    masses = {name: fmean(s.mass_from[name] for s in scenes if name in s.mass_from) for name in names}
    return OnCue(
        fmean(scene.peak for scene in scenes),
        fmean(scene.mass for scene in scenes),
        fmean(scene.area for scene in scenes),
        masses,
    )


def cue_classes(metadata: Metadata) -> list[str]:
    """The classes of what decides in a data set.

    Raises:
        UserError: its metadata lack ``context_classes`` or ``cue_classes``.
    """
    names = metadata.get("cue_classes")
    if not names or not metadata.get("context_classes"):
        raise UserError(
            f"The data set {metadata.name} does not say what its cues are: set context_classes and cue_classes in its "
            "metadata, or take fpt_context_presence_val"
        )
    return list(names)


def _boxes(record: dict[str, Any], metadata: Metadata, names: Iterable[str]) -> list[list[float]]:
    """x1, y1, x2, y2 of a record's objects of these classes."""
    ids = {metadata.thing_classes.index(name) for name in names}
    return [
        BoxMode.convert(some["bbox"], some["bbox_mode"], BoxMode.XYXY_ABS)
        for some in record.get("annotations", [])
        if some["category_id"] in ids
    ]


def _peak(attention: Tensor) -> tuple[int, int]:
    """Row and column of the largest value; of the pixels of one position, which have the same, the middle one."""
    places = (attention >= attention.max() * (1 - 1e-5)).nonzero()
    middle = places.float().mean(0)
    row, column = places[(places - middle).square().sum(1).argmin()].tolist()
    return row, column
