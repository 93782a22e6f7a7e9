"""How much of the attention is on a cue: on attention that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import BoxMode
from torch import Tensor

from fpt_d2.errors import UserError
from fpt_d2.visualization import cue
from fpt_d2.visualization.attention import Exploration, Gathered
from fpt_d2.visualization.cue import OnCue, attention_of_pixels, mean_on_cue, measure_on_cue

METADATA = Metadata(name="scenes", thing_classes=["star", "square"], cue_classes=["star"], context_classes=["square"])


def one_place(shape: tuple[int, int], row: int, column: int) -> Tensor:
    weights = torch.zeros(shape)
    weights[row, column] = 1
    return weights


def gathered(kind: str, source: str, share: float, weights: Tensor, *, has_softmax: bool = True) -> Gathered:
    return Gathered(kind, source, share, weights, *((weights[None], torch.ones(1)) if has_softmax else ()))


def scene() -> Exploration:
    """Of an image of 16 x 32 that the model sees as 8 x 16, at strides of 4 and 8; the coarse map is padded."""
    branches = [
        gathered("st", "p2", 0.6, one_place((2, 4), 0, 3)),
        gathered("gt", "p3", 0.2, one_place((2, 3), 0, 0)),
        gathered("rt", "p1", 0.1, one_place((4, 8), 0, 0), has_softmax=False),
    ]
    return Exploration("p2", 0.1, branches, {"p2": (2.0, 4.0), "p3": (1.0, 2.0), "p1": (4.0, 8.0)})


def record(*objects: tuple[int, list[float]]) -> dict[str, Any]:
    boxes = [{"category_id": c, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS} for c, box in objects]
    return {"annotations": boxes}


def test_a_position_is_spread_over_its_pixels() -> None:
    attention = attention_of_pixels(scene(), (16, 32))
    assert attention.sum().item() == pytest.approx(1)
    assert attention[:8, 24:].sum().item() == pytest.approx(0.75)
    assert attention[:, :16].sum().item() == pytest.approx(0.25)
    assert attention[0, 31].item() == pytest.approx(0.75 / 64) and attention[15, 15].item() == pytest.approx(0.25 / 256)
    assert attention[8:, 16:].sum() == 0


def test_attention_peak_and_area_on_the_cue(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[float]] = []

    def fake(predictor: Any, image: np.ndarray, box: list[float]) -> Exploration:
        asked.append(box)
        return scene()

    monkeypatch.setattr(cue, "explore", fake)
    image = np.zeros((16, 32, 3), np.uint8)
    objects = [(1, [2, 2, 6, 6]), (1, [3, 9, 5, 11])]
    found = measure_on_cue(None, image, record((0, [24, 0, 32, 8]), *objects), METADATA)
    assert found is not None and asked == [[2, 2, 6, 6], [3, 9, 5, 11]]
    assert (found.peak, found.area) == (1, 64 / 512) and found.mass == pytest.approx(0.75)
    assert found.mass_from == pytest.approx({"ST from p2": 1, "GT from p3": 0})
    beside = measure_on_cue(None, image, record((0, [0, 0, 8, 8]), *objects), METADATA)
    assert beside is not None and beside.peak == 0 and beside.mass == pytest.approx(0.25 / 4)
    mean = mean_on_cue([found, beside])
    assert mean.peak == 0.5 and mean.mass_from == pytest.approx({"ST from p2": 0.5, "GT from p3": 0.125})


def test_a_scene_without_a_cue_or_an_object_is_left_out() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    assert measure_on_cue(None, image, record((0, [0, 0, 8, 8])), METADATA) is None
    assert measure_on_cue(None, image, record((1, [0, 0, 8, 8])), METADATA) is None


def test_branches_that_only_some_scenes_have() -> None:
    assert mean_on_cue([OnCue(1, 1, 1, {"a": 1.0}), OnCue(1, 1, 1, {"b": 3.0})]).mass_from == {"a": 1, "b": 3}


def test_what_has_nothing_to_measure_is_refused() -> None:
    bare = Exploration("p2", 1.0, [gathered("st", "p2", 0.0, torch.ones(2, 4) / 8)], {"p2": (2.0, 4.0)})
    with pytest.raises(UserError, match="nothing is attended to"):
        attention_of_pixels(bare, (16, 32))
    with pytest.raises(UserError, match="The data set cells does not say what its cues are: set context_classes"):
        measure_on_cue(None, np.zeros((4, 4, 3), np.uint8), {}, Metadata(name="cells", context_classes=["a"]))
