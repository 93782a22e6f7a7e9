"""Windows and augmentations put together what the model says of each."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.data import transforms as T
from detectron2.modeling import DatasetMapperTTA, build_model
from torch import Tensor, nn

from fpt_d2.engine import get_default_config
from fpt_d2.modeling.sem_seg import SemanticSegmentorWithTTA, SlidingWindow
from tests.semantic import CONFIG


def image_of(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Stub(nn.Module):
    """Has a SemanticSegmentor's interface; ``predict`` makes logits (K, H, W) of an image (3, H, W)."""

    def __init__(self, predict) -> None:
        super().__init__()
        self.predict, self.seen = predict, []

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        outputs = []
        for inputs in batched_inputs:
            self.seen.append(inputs)
            image = inputs["image"].float()
            size = inputs.get("height", image.shape[1]), inputs.get("width", image.shape[2])
            logits = F.interpolate(self.predict(image)[None], size=size, mode="bilinear", align_corners=False)
            outputs.append({"sem_seg": logits[0]})
        return outputs


def pointwise(image: Tensor) -> Tensor:
    """What is predicted of a pixel depends on it alone."""
    weights = torch.linspace(-1, 1, 12).reshape(4, 3)
    return torch.einsum("kc,chw->khw", weights, image / 100)


@pytest.fixture(scope="module")
def segmentor() -> nn.Module:
    cfg = get_default_config()
    cfg.merge_from_other_cfg(type(cfg)(CONFIG))
    torch.manual_seed(0)
    return build_model(cfg).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(45, 61), (64, 64), (100, 70)])
def test_a_window_that_covers_the_image_is_the_model(size, segmentor) -> None:
    inputs = [{"image": image_of(45, 61), "height": 90, "width": 122, "file_name": "x"}, {"image": image_of(33, 40)}]
    plain = segmentor([inputs[0]]) + segmentor([inputs[1]])
    windowed = SlidingWindow(segmentor, size=size, stride=(8, 8))(inputs)
    for output, expected in zip(windowed, plain):
        assert torch.equal(output["sem_seg"], expected["sem_seg"])


@torch.no_grad()
def test_a_window_of_a_real_model_is_the_model_on_the_crop(segmentor) -> None:
    image = image_of(48, 80)
    windowed = SlidingWindow(segmentor, size=(48, 40), stride=(48, 40))([{"image": image}])[0]["sem_seg"]
    left, right = (segmentor([{"image": part}])[0]["sem_seg"] for part in (image[..., :40], image[..., 40:]))
    assert torch.equal(windowed, torch.cat((left, right), dim=2))


@pytest.mark.parametrize("size", [(40, 52), (41, 53), (17, 60), (16, 16)])
@pytest.mark.parametrize("stride", [(16, 16), (5, 7), (1, 16)])
def test_windows_of_a_pointwise_model_are_the_model(size, stride) -> None:
    inputs = [{"image": image_of(*size), "height": 31, "width": 70}]
    expected = Stub(pointwise)(inputs)[0]["sem_seg"]
    output = SlidingWindow(Stub(pointwise), size=(16, 16), stride=stride)(inputs)[0]["sem_seg"]
    assert output.shape == (4, 31, 70)
    torch.testing.assert_close(output, expected)


def test_overlapping_windows_are_averaged() -> None:
    def mean_of_window(image: Tensor) -> Tensor:
        return image.mean().expand(2, *image.shape[1:])

    image, height, width = image_of(20, 27).float(), 8, 10
    output = SlidingWindow(Stub(mean_of_window), size=(height, width), stride=(6, 10))([{"image": image}])
    expected = torch.zeros(20, 27)
    # Each pixel by itself: the windows that hold it.
    tops, lefts = [0, 6, 12], [0, 10, 17]
    for y in range(20):
        for x in range(27):
            means = [
                image[:, top : top + height, left : left + width].mean()
                for top in tops
                for left in lefts
                if top <= y < top + height and left <= x < left + width
            ]
            expected[y, x] = torch.stack(means).mean()
    torch.testing.assert_close(output[0]["sem_seg"], expected.expand(2, -1, -1))


def test_every_window_has_the_same_size_and_the_image_is_covered() -> None:
    model = Stub(pointwise)
    SlidingWindow(model, size=(16, 24), stride=(10, 20))([{"image": image_of(40, 50), "sem_seg": None}])
    assert {tuple(inputs["image"].shape) for inputs in model.seen} == {(3, 16, 24)}
    assert all(set(inputs) == {"image"} for inputs in model.seen) and len(model.seen) == 4 * 3


@pytest.mark.parametrize("stride", [(0, 8), (17, 8), (8, 9)])
def test_a_stride_with_gaps_is_refused(stride) -> None:
    with pytest.raises(ValueError, match=r"stride is .*; allowed: two positive numbers, at most the size \(16, 8\)"):
        SlidingWindow(Stub(pointwise), size=(16, 8), stride=stride)


def with_tta(model: nn.Module, *sizes: int, flip: bool, flipped_classes=None) -> SemanticSegmentorWithTTA:
    mapper = DatasetMapperTTA(min_sizes=list(sizes), max_size=400, flip=flip)
    return SemanticSegmentorWithTTA(model, mapper, flipped_classes=flipped_classes)


@torch.no_grad()
def test_one_scale_and_no_flip_are_the_models_probabilities(segmentor) -> None:
    inputs = [{"image": image_of(40, 56), "height": 50, "width": 70}, {"image": image_of(40, 40)}]
    outputs = with_tta(segmentor, 40, flip=False)(inputs)
    for output, one in zip(outputs, inputs):
        expected = segmentor([one])[0]["sem_seg"].softmax(dim=0)
        torch.testing.assert_close(output["sem_seg"], expected)
        torch.testing.assert_close(output["sem_seg"].sum(dim=0), torch.ones(expected.shape[1:]))


def test_scales_and_flips_are_averaged() -> None:
    image = image_of(40, 56)
    output = with_tta(Stub(pointwise), 40, 80, flip=True)([{"image": image, "height": 40, "width": 56}])[0]["sem_seg"]
    parts = []
    for size in (40, 80):
        scaled = T.ResizeShortestEdge(size, 400).get_transform(image.permute(1, 2, 0).numpy())
        pixels = torch.from_numpy(scaled.apply_image(image.permute(1, 2, 0).numpy()).copy()).permute(2, 0, 1)
        for flip in (False, True):
            logits = Stub(pointwise)([{"image": pixels.flip(-1) if flip else pixels, "height": 40, "width": 56}])
            probabilities = logits[0]["sem_seg"].softmax(dim=0)
            parts.append(probabilities.flip(-1) if flip else probabilities)
    torch.testing.assert_close(output, torch.stack(parts).mean(dim=0))


def test_left_and_right_change_back_in_a_mirrored_copy() -> None:
    def sides(image: Tensor) -> Tensor:
        """Class 1 on the left half of what is seen, class 2 on the right one."""
        logits = torch.zeros(3, *image.shape[1:])
        half = image.shape[2] // 2
        logits[1, :, :half], logits[2, :, half:] = 5, 5
        return logits

    inputs = [{"image": image_of(20, 30)}]
    expected = Stub(sides)(inputs)[0]["sem_seg"].softmax(dim=0)
    output = with_tta(Stub(sides), 20, flip=True, flipped_classes=[0, 2, 1])(inputs)[0]["sem_seg"]
    torch.testing.assert_close(output, expected)
    without = with_tta(Stub(sides), 20, flip=True)(inputs)[0]["sem_seg"]
    torch.testing.assert_close(without[1], without[2])


def test_a_float_image_is_scaled_as_one_of_uint8() -> None:
    image = image_of(40, 56)
    outputs = [with_tta(Stub(pointwise), 25, flip=False)([{"image": x}])[0]["sem_seg"] for x in (image, image.float())]
    assert torch.equal(*outputs)


def test_windows_slide_over_every_copy() -> None:
    model = Stub(pointwise)
    inputs = [{"image": image_of(40, 40)}]
    windowed = with_tta(SlidingWindow(model, size=(40, 40), stride=(40, 40)), 40, 80, flip=True)(inputs)[0]["sem_seg"]
    assert len(model.seen) == 2 * (1 + 4)
    torch.testing.assert_close(windowed, with_tta(Stub(pointwise), 40, 80, flip=True)(inputs)[0]["sem_seg"])


@torch.no_grad()
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_windows_and_augmentation_of_a_model_on_a_gpu() -> None:
    inputs = [{"image": image_of(50, 70), "height": 60, "width": 84}]

    def predict(device: str) -> Tensor:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 1).to(device)
        model = Stub(lambda image: conv(image.to(device)[None] / 100)[0])
        model = SlidingWindow(model, size=(32, 32), stride=(24, 24))
        return with_tta(model, 50, 75, flip=True)(inputs)[0]["sem_seg"]

    on_gpu = predict("cuda")
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), predict("cpu"), rtol=1e-3, atol=1e-3)
