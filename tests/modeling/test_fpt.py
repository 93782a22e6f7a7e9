"""FPT as a Detectron2 backbone: against Detectron2's own FPN, with padding, in a detector."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.modeling import FPN, build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from fpt_d2 import FPT
from fpt_d2.checkpoint.names import is_fpt
from fpt_d2.core import PyramidTransform

from .models import FASTER_RCNN, FPN_BUILDERS, PatchTrunk, patch_fpt, randomize, small_config


@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.FPT.PYRAMID", "bfp"],
        ["MODEL.FPN.FUSE_TYPE", "avg"],
        ["MODEL.FPN.NORM", "GN"],
        ["MODEL.FPT.NORM", "BN"],
        ["MODEL.FPT.BRANCHES", []],
    ],
    ids=str,
)
@pytest.mark.parametrize("name", FPN_BUILDERS)
def test_zero_fuse_is_detectron2s_fpn(name: str, opts: list) -> None:
    torch.manual_seed(0)
    cfg = small_config(name, *opts)
    fpt = build_model(cfg).backbone.eval()
    cfg.MODEL.BACKBONE.NAME = FPN_BUILDERS[name]
    fpn = build_model(cfg).backbone.eval()
    keys = fpt.load_state_dict(fpn.state_dict(), strict=False)
    assert type(fpn) is FPN and keys.unexpected_keys == []
    assert all(key.startswith(("fpt.", "pyramid.")) or ".fuse." in key for key in keys.missing_keys)
    images = ImageList.from_tensors([torch.randn(3, 90, 128), torch.randn(3, 128, 70)], fpt.size_divisibility)
    with torch.no_grad():
        ours, theirs = fpt(images.tensor), fpn(images.tensor)
    assert list(ours) == list(theirs)
    for level in theirs:
        torch.testing.assert_close(ours[level], theirs[level], rtol=1e-5, atol=1e-5)
    assert fpt.output_shape() == fpn.output_shape()
    assert fpt.size_divisibility == fpn.size_divisibility
    assert fpt.padding_constraints == fpn.padding_constraints


def test_branches_change_the_output_once_the_fusion_is_not_zero() -> None:
    torch.manual_seed(0)
    fpt = build_model(small_config()).backbone.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = fpt(image)
        randomize(fpt)
        after = fpt(image)
    assert all((after[level] - before[level]).abs().max() > 1e-3 for level in ("p2", "p3", "p4", "p5"))


@pytest.mark.parametrize(
    "options",
    [{}, {"MAX_KV_TOKENS": 12}, {"KV_STRIDE": 2}, {"GT_SQUARE_SIZE": 3}, {"GT_SIMILARITY": "dot"}],
    ids=str,
)
def test_an_image_does_not_depend_on_what_it_is_batched_with(options: dict) -> None:
    model = patch_fpt(**options)
    height, width = 64, 96
    small, large = torch.rand(3, height, width).double() + 0.1, torch.rand(3, 160, 128).double() + 0.1
    with torch.no_grad():
        alone = model(ImageList.from_tensors([small], 32).tensor)
        batch = model(ImageList.from_tensors([small, large], 32).tensor)
        blind = copy.deepcopy(model)
        blind.read_padding = False
        without_masks = blind(ImageList.from_tensors([small, large], 32).tensor)
    for level in ("p2", "p3", "p4"):
        stride = model.output_shape()[level].stride
        # fpn_output's own 3x3 convolution sees one position of padding, in FPN too.
        inside = (0, slice(None), slice(0, height // stride - 1), slice(0, width // stride - 1))
        torch.testing.assert_close(batch[level][inside], alone[level][inside], rtol=1e-9, atol=1e-9)
        assert (without_masks[level][inside] - alone[level][inside]).abs().max() > 1e-4


def test_generalized_rcnn_pads_so_that_an_image_has_the_same_features_in_any_batch() -> None:
    torch.manual_seed(0)
    model = build_model(small_config()).eval()
    backbone = patch_fpt()
    model.backbone = backbone  # its size_divisibility is what the detector pads by
    images = [torch.rand(3, 70, 100) * 255, torch.rand(3, 128, 160) * 255]
    with torch.no_grad():
        alone, together = (
            backbone(model.preprocess_image([{"image": image} for image in batch]).tensor.double())
            for batch in (images[:1], images)
        )
    for level, stride in (("p2", 4), ("p3", 8), ("p4", 16)):
        inside = (0, slice(None), slice(0, 70 // stride - 1), slice(0, 100 // stride - 1))
        torch.testing.assert_close(together[level][inside], alone[level][inside], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("smallest", [torch.rand(3, 5, 5) + 0.1, torch.zeros(3, 40, 40)], ids=["tiny", "all zero"])
def test_a_tiny_or_empty_image_in_a_batch_stays_finite(smallest: Tensor) -> None:
    model = patch_fpt(MAX_KV_TOKENS=9)
    images = ImageList.from_tensors([smallest.double(), torch.rand(3, 128, 128).double() + 0.1], 32)
    outputs = model(images.tensor)
    sum(x.sum() for x in outputs.values()).backward()
    assert all(x.isfinite().all() for x in outputs.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_training_step_of_a_detector_is_finite() -> None:
    torch.manual_seed(0)
    model = build_model(small_config(FASTER_RCNN, "MODEL.ROI_HEADS.NUM_CLASSES", 3)).train()
    randomize(model)
    target = Instances((96, 128), gt_boxes=Boxes([[10.0, 12.0, 70.0, 80.0]]), gt_classes=torch.tensor([1]))
    with EventStorage():
        losses = model([{"image": torch.rand(3, 96, 128) * 255, "instances": target}])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_parameter_gets_a_gradient_once_the_fusion_is_not_zero() -> None:
    torch.manual_seed(0)
    backbone = build_model(small_config(FASTER_RCNN, "MODEL.FPT.PYRAMID", "bfp")).backbone.train()
    ours = [(n, p) for n, p in backbone.named_parameters() if is_fpt(n)]
    image = torch.randn(1, 3, 128, 128)

    def idle() -> list[str]:
        backbone.zero_grad()
        sum(x.square().sum() for x in backbone(image).values()).backward()
        return [n for n, p in ours if p.grad is None or not p.grad.abs().sum() > 0]

    # The fusion learns from the first step on, and what it reads from the second.
    assert all(n.startswith("fpt.") for n in idle())
    randomize(backbone)
    # A key's bias shifts all scores of a query alike, which a softmax over dot products does not see.
    assert all(n.endswith("key.bias") for n in idle())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_traced_backbone_gives_the_same_features(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    backbone = build_model(small_config()).backbone.eval()
    randomize(backbone)
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, image, strict=False)
        torch.testing.assert_close(traced(image), backbone(image), rtol=1e-4, atol=1e-4)


def test_fpt_refuses_a_transform_that_does_not_fit() -> None:
    trunk = PatchTrunk()
    with pytest.raises(ValueError, match="the transform has levels"):
        FPT(trunk, ["res2", "res3"], 16, transform=PyramidTransform({"p3": 8, "p4": 16}, 16, channels=16))
