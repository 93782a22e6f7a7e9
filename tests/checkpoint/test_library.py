"""Weights of whole models of timm and torchvision, as these libraries save them, for trunks made of such models."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from torch import Tensor, nn

from fpt_d2.checkpoint import FPTCheckpointer, WeightsError

from .conftest import build, small_config

RESNET = ("torchvision", "resnet18", "layer1", "layer2", "layer3", "layer4")
CONVNEXT = ("torchvision", "convnext_tiny", "features.1", "features.3", "features.5", "features.7")
IMAGENET = [[123.675, 116.28, 103.53], [58.395, 57.12, 57.375]]


def config(library: str, name: str, *layers: str, norm: str = "FrozenBN", neck: bool = True) -> CfgNode:
    cfg = small_config(fpt=neck)
    if not neck:
        cfg.MODEL.BACKBONE.NAME = "build_resnet_fpt_backbone"
        cfg.MODEL.FPT.BRANCHES = []
    trunk = cfg.MODEL.TRUNK
    trunk.BUILDER, trunk.NAME, trunk.LAYERS, trunk.NORM = f"build_{library}_backbone", name, list(layers), norm
    cfg.INPUT.FORMAT, (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) = "RGB", IMAGENET
    return cfg


def whole_model(library: str, name: str, *_: str) -> nn.Module:
    """With running statistics other than those that every new model has."""
    torch.manual_seed(7)
    if library == "timm":
        model: nn.Module = pytest.importorskip("timm").create_model(name)
    else:
        model = torchvision.models.get_model(name, weights=None)
    for tensor_name, tensor in model.named_buffers():
        if tensor_name.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


def features(model: nn.Module, library: str, name: str, *layers: str, image: Tensor) -> list[Tensor]:
    """What the whole model computes where the trunk has its features of stride 4 to 32."""
    if library == "timm":
        timm = pytest.importorskip("timm")
        info = timm.create_model(name, features_only=True).feature_info
        layers = tuple(n for n, r in zip(info.module_name(), info.reduction()) if r >= 4)
    found: list[Tensor] = []
    for layer in layers:
        model.get_submodule(layer).register_forward_hook(lambda module, inputs, out: found.append(out))
    with torch.no_grad():
        model(image)
    return found


@pytest.mark.parametrize(
    "kind, norm",
    [
        (("timm", "efficientnet_lite0"), "FrozenBN"),
        (("timm", "resnet18"), "BN"),
        (("timm", "convnext_atto"), "FrozenBN"),
        (("timm", "mobilenetv3_small_050"), "SyncBN"),
        (("timm", "regnety_002"), "FrozenBN"),
        (RESNET, "BN"),
        (CONVNEXT, "FrozenBN"),
        (("torchvision", "efficientnet_b0", "features.2", "features.3", "features.5", "features.7"), "FrozenBN"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_the_trunk_computes_what_the_whole_model_does(
    kind: tuple[str, ...], norm: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="fpt_d2")
    whole, path = whole_model(*kind), tmp_path / "whole.pth"
    torch.save(whole.state_dict(), path)
    model = build(config(*kind, norm=norm))
    FPTCheckpointer(model, input_format="RGB").load(str(path))
    image = torch.randn(1, 3, 64, 96)
    # Frozen norms of all kinds compute the same; synchronised ones do in eval mode.
    with torch.no_grad():
        ours = list(model.backbone.bottom_up(image).values())
    expected = features(whole, *kind, image=image)
    assert len(ours) == len(expected) == 4
    for a, b in zip(ours, expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    text = caplog.text
    assert "because the trunk ends before: " in text and "missing" not in text and "unexpected" not in text
    assert not [r for r in caplog.records if r.name.startswith("fpt_d2") and r.levelno >= logging.WARNING]


def test_a_trunk_that_has_the_whole_model_inside() -> None:
    """timm keeps some families whole, as ``body.model``."""
    from fpt_d2.checkpoint.library import fit_library
    from fpt_d2.modeling import FeatureTrunk

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Conv2d(4, 4, 2, 2))

        def forward(self, x: Tensor) -> list[Tensor]:
            return [(y := self.model[0](x)), self.model[1](y)]

    trunk, whole = FeatureTrunk(Inside(), library="timm"), Inside().model
    checkpoint = fit_library({**whole.state_dict(), "head.weight": torch.zeros(1)}, trunk, "x.pth")
    assert checkpoint is not None
    trunk.load_state_dict(checkpoint["model"])
    assert torch.equal(trunk.body.model[1].weight, whole[1].weight)


@pytest.mark.parametrize("form", ["safetensors", "pkl", "module", "model"])
def test_every_form_of_file(form: str, tmp_path: Path) -> None:
    weights = whole_model(*RESNET).state_dict()
    path = tmp_path / f"whole.{form if form in ('safetensors', 'pkl') else 'pth'}"
    if form == "safetensors":
        pytest.importorskip("safetensors.torch").save_file(weights, path)
    elif form == "pkl":
        path.write_bytes(pickle.dumps({name: weight.numpy() for name, weight in weights.items()}))
    elif form == "module":
        torch.save({f"module.{name}": weight for name, weight in weights.items()}, path)
    else:
        torch.save({"model": weights, "epoch": 3}, path)
    model = build(config(*RESNET, neck=False))
    FPTCheckpointer(model, input_format="RGB").load(str(path))
    loaded = model.state_dict()["backbone.bottom_up.body.layer3.1.bn2.running_var"]
    assert torch.equal(loaded, weights["layer3.1.bn2.running_var"])


def renamed(model: nn.Module) -> dict[str, Tensor]:
    return {f"encoder.{name}": weight for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(
    "kind, make, message",
    [
        (
            RESNET,
            lambda w: {n: t for n, t in w.items() if n != "layer3.0.bn1.weight"},
            r"1 of the trunk's 100 .* is not",
        ),
        (RESNET, lambda w: {n: t for n, t in w.items() if n < "layer2"}, "of the trunk's 100 tensors are not in it"),
        (RESNET, "resnet34", r"layer1\.2\.conv1\.weight, in the midst of it, is not part of the trunk"),
        (RESNET, "wide_resnet50_2", r"layer1\.0\.conv1\.weight has the shape \(128, 64, 1, 1\), not \(64, 64, 3, 3\)"),
        (CONVNEXT, "convnext_small", r"features\.5\.9\.layer_scale, in the midst of it"),
        (CONVNEXT, "mobilenet_v3_small", "of the trunk's 178 tensors are not in it as they must be"),
    ],
    ids=lambda value: "part" if callable(value) else str(value),  # a function's text differs by process
)
def test_weights_of_another_model_or_of_a_part(
    kind: tuple[str, ...], make: str | Callable[..., dict[str, Tensor]], message: str, tmp_path: Path
) -> None:
    made = whole_model("torchvision", make if isinstance(make, str) else kind[1]).state_dict()
    path = str(tmp_path / "other.pth")
    torch.save(made if isinstance(make, str) else make(made), path)
    model = build(config(*kind, neck=False))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(WeightsError, match=message) as caught:
        FPTCheckpointer(model).load(path)
    assert str(caught.value).startswith(f"{path} is not of the model that the trunk is made of: ")
    assert str(caught.value).endswith(": change MODEL.TRUNK or give other weights") and "\n" not in str(caught.value)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("make", [renamed, lambda m: m.fc.state_dict()], ids=["renamed", "classifier"])
def test_nothing_of_the_trunk(make: Callable[..., dict[str, Tensor]], save: Callable[..., str]) -> None:
    with pytest.raises(WeightsError, match="Nothing of the trunk is in"):
        FPTCheckpointer(build(config(*CONVNEXT, neck=False))).load(save(make(whole_model(*RESNET))))


def test_a_resnet_of_detectron2s_still_takes_them(save: Callable[..., str]) -> None:
    model, whole = build(small_config(fpt=True)), whole_model(*RESNET)
    FPTCheckpointer(model).load(save(whole.state_dict()))
    assert torch.equal(model.backbone.bottom_up.res5[1].conv2.weight, whole.layer4[1].conv2.weight)


def test_a_trained_model_keeps_its_names(save: Callable[..., str]) -> None:
    trained = build(config(*RESNET), seed=3)
    model = build(config(*RESNET), seed=4)
    FPTCheckpointer(model, whole=True).load(save(trained.state_dict()))
    assert all(torch.equal(weight, trained.state_dict()[name]) for name, weight in model.state_dict().items())


def test_the_input_that_the_library_wants(save: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    kind = ("timm", "tf_efficientnet_lite0")
    path = save(whole_model(*kind).state_dict())
    FPTCheckpointer(build(config(*kind, neck=False)), input_format="BGR").load(path)
    assert (
        "come from timm. Set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.5, 127.5, 127.5], MODEL.PIXEL_STD [127.5, 127.5, "
        "127.5]: the model has INPUT.FORMAT BGR, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53]"
    ) in caplog.text


def test_the_input_that_torchvision_wants(save: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    cfg = config(*RESNET, neck=False)
    cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
    FPTCheckpointer(build(cfg), input_format="RGB").load(save(whole_model(*RESNET).state_dict()))
    assert "come from torchvision. Set MODEL.PIXEL_STD [58.395, 57.12, 57.375]: the model has" in caplog.text
