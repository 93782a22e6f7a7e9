"""The parts of a file: scaling as Pillow's, pasting as Detectron2's, suppression as torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import batched_nms, paste_masks_in_image
from torchvision.ops import boxes as box_ops

from fpt_d2.export.masks import paste_masks
from fpt_d2.export.nms import nms_by_class
from fpt_d2.export.resizing import image_size, resize, scaled_size

SIZES = [(48, 64), (97, 61), (150, 200), (96, 160), (333, 250), (40, 230), (230, 40), (203, 101), (500, 190)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("short_side", "max_size"), [(96, 160), (64, 64), (151, 1333), (0, 0)])
def test_scaling_is_that_of_the_predictor_bit_for_bit(size: tuple[int, int], short_side: int, max_size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = ResizeShortestEdge([short_side] * 2, max_size).get_transform(image).apply_image(image)
    x = torch.from_numpy(image).permute(2, 0, 1)
    h, w = scaled_size(*image_size(x), short_side, max_size)
    assert (int(h), int(w)) == expected.shape[:2]
    scaled = resize(x, h, w, h + 3, w + 5)
    np.testing.assert_array_equal(scaled[:, :h, :w].permute(1, 2, 0).numpy(), expected)
    assert not scaled[:, h:].any() and not scaled[:, :, w:].any()


def test_sizes_are_those_of_detectron2() -> None:
    generator = np.random.default_rng(0)
    for _ in range(3000):
        height, width, short_side, max_size = (int(n) for n in generator.integers(1, 2000, 4))
        expected = ResizeShortestEdge.get_output_shape(height, width, short_side, max_size)
        scaled = scaled_size(torch.tensor(height), torch.tensor(width), short_side, max_size)
        assert tuple(map(int, scaled)) == expected, (height, width, short_side, max_size)


@pytest.mark.parametrize("number", [0, 1, 7])
def test_masks_are_pasted_as_by_detectron2(number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    masks = torch.rand(number, 28, 28, generator=generator)
    corner = torch.rand(number, 2, generator=generator) * 50 - 5
    boxes = torch.cat((corner, corner + 2 + 60 * torch.rand(number, 2, generator=generator)), dim=1)
    pasted = paste_masks(masks, boxes, torch.tensor(90), torch.tensor(70))
    assert pasted.dtype == torch.bool and pasted.shape == (number, 90, 70)
    if number:
        expected = paste_masks_in_image(masks, boxes, (90, 70))
        assert (pasted ^ expected).sum() <= 2 and expected.any()  # at exactly a half rounding decides


@pytest.mark.parametrize("number", [0, 1, 40, 300])
def test_suppression_is_by_class(number: int) -> None:
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(number, 2, generator=generator) * 100 - 50  # some outside the image, as RetinaNet's
    boxes = torch.cat((corner, corner + 40 * torch.rand(number, 2, generator=generator)), dim=1)
    scores = torch.rand(number, generator=generator)
    classes = torch.randint(0, 80, (number,), generator=generator) // 4
    expected = box_ops._batched_nms_vanilla(boxes, scores, classes, 0.5)
    assert nms_by_class(boxes, scores, classes, 0.5).tolist() == expected.tolist()
    assert nms_by_class(boxes.abs(), scores, classes, 0.5).shape == batched_nms(boxes.abs(), scores, classes, 0.5).shape
