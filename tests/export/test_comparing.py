"""The comparison sees what is wrong, and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from fpt_d2.export.comparing import MAX_SCORE, compare


def detections(number: int = 3) -> list[Tensor]:
    corner = 40.0 * torch.arange(number)[:, None].expand(-1, 2)
    masks = torch.zeros(number, 200, 200, dtype=torch.bool)
    masks[:, :20, :20] = True
    return [torch.cat((corner, corner + 30), 1), torch.linspace(0.9, 0.6, number), torch.arange(number) % 2, masks]


def changed(index: int, value: object) -> list[Tensor]:
    found = [x.clone() for x in detections()]
    found[index][1] = value
    return found


def test_the_same_in_another_order_is_the_same() -> None:
    order = torch.tensor([2, 0, 1])
    difference = compare([x[order] for x in detections()], detections())
    assert (difference.boxes, difference.scores, difference.masks, difference.objects) == (0, 0, 0, 3)
    assert compare(detections(0), detections(0)).is_small()


def test_what_differs_is_found() -> None:
    box = changed(0, torch.tensor([40.0, 40.0, 70.75, 70.0]))
    assert compare(box, detections()).boxes == 0.75 and not compare(box, detections()).is_small()
    assert abs(compare(changed(1, 0.8), detections()).scores - 0.05) < 1e-6
    assert not compare(changed(2, 0), detections()).is_small()
    assert compare(changed(3, False), detections()).masks == 1
    assert not compare([x[:2] for x in detections()], detections()).is_small()
    assert not compare(detections(), [x[:2] for x in detections()]).is_small()
    assert not compare(detections(0), detections()).is_small()
    assert not compare(detections()[:3], detections()).is_small()


def test_rounding_decides_at_the_threshold_and_at_the_end_of_a_full_list() -> None:
    fewer = [x[:2] for x in detections()]
    assert compare(fewer, detections(), threshold=0.6 - MAX_SCORE / 2).is_small()
    assert compare(fewer, detections(), limit=3).is_small()
    assert not compare(fewer, detections(), threshold=0.5, limit=4).is_small()


def test_semantic_segmentation_is_compared_by_probabilities() -> None:
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert compare([logits + 100], [logits]).scores < 1e-5
    assert not compare([logits * 1.1], [logits]).is_small()
    assert not compare([logits[:, :4]], [logits]).is_small()
