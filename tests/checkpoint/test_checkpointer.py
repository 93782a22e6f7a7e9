"""The report of what was loaded, and weights of another model: one sentence each."""

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer, WeightsError
from fpt_d2.checkpoint.names import is_fpt, resnet_kind

from .caffe2_names import to_caffe2
from .conftest import build, small_config


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Mask R-CNN with FPT. Tests load weights into it."""
    return build(small_config(fpt=True), seed=1)


@pytest.fixture
def report(caplog: pytest.LogCaptureFixture, model: nn.Module) -> Callable[[str], tuple[str, list[str]]]:
    """Load a file; the level and the lines of the report."""

    def load(path: str) -> tuple[str, list[str]]:
        caplog.set_level(logging.INFO, logger="fpt_d2")
        caplog.clear()
        FPTCheckpointer(model).load(path)
        (record,) = [r for r in caplog.records if r.getMessage().startswith("Weights from")]
        return record.levelname, record.getMessage().splitlines()

    return load


def test_what_fpt_adds_is_known_by_its_name(fpn_model: nn.Module) -> None:
    cfg = small_config(fpt=True)
    cfg.MODEL.FPT.PYRAMID = "bfp"
    added = set(build(cfg).state_dict()) - set(fpn_model.state_dict())
    assert added == {name for name in build(cfg).state_dict() if is_fpt(name)}
    assert not any(is_fpt(name) for name in fpn_model.state_dict())


def test_report_of_an_fpn_checkpoint(fpn_model: nn.Module, save: Callable[..., str], report: Any) -> None:
    path = save(fpn_model.state_dict())
    level, (title, loaded, new) = report(path)
    assert level == "INFO" and title == f"Weights from {path}"
    assert loaded.startswith(f"  loaded: {len(fpn_model.state_dict())} tensors (") and "bottom_up 100" in loaded
    assert new.startswith("  new, as initialized: ") and "backbone.fpn_output.fuse 8" in new and "roi_heads" not in new


def test_report_of_a_checkpoint_of_its_own(model: nn.Module, save: Callable[..., str], report: Any) -> None:
    level, lines = report(save(model.state_dict()))
    assert level == "INFO" and len(lines) == 2 and f" {len(model.state_dict())} tensors" in lines[1]


def test_report_of_other_classes_and_a_lost_and_a_foreign_tensor(
    fpn_model: nn.Module, save: Callable[..., str], report: Any
) -> None:
    weights = {**fpn_model.state_dict(), "ema.decay": torch.ones(1)}
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.ones(7)
    del weights["roi_heads.mask_head.mask_fcn1.bias"]
    level, lines = report(save(weights))
    assert level == "WARNING"
    assert lines[3:] == [
        "  missing, as initialized: 1 tensors (roi_heads.mask_head 1)",
        "  unexpected, left out: 1 tensors (ema 1)",
        "  mismatched, as initialized: roi_heads.box_predictor.cls_score.bias (7,) in the file, (81,) in the model",
    ]


def test_report_of_imagenet_weights_with_shortened_names(
    fpn_model: nn.Module, save: Callable[..., str], report: Any
) -> None:
    prefix = "backbone.bottom_up."
    trunk = {n[len(prefix) :]: w for n, w in fpn_model.state_dict().items() if n.startswith(prefix)}
    trunk["stem.conv1.weight"] = torch.zeros(64, 4, 7, 7)
    _, lines = report(save(trunk, matching_heuristics=True))
    assert lines[1] == "  loaded: 99 tensors (backbone.bottom_up 99)"
    assert "backbone.fpn_output 8" in lines[2] and "roi_heads.box_head 4" in lines[2]
    assert lines[3:] == [
        "  mismatched, as initialized: "
        "backbone.bottom_up.stem.conv1.weight (64, 4, 7, 7) in the file, (64, 3, 7, 7) in the model"
    ]


def test_torchvision_weights_load_as_they_are(tmp_path: Path, report: Any, model: nn.Module) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    _, lines = report(str(tmp_path / "resnet18.pth"))
    assert lines[1] == "  loaded: 100 tensors (backbone.bottom_up 100)"


def assert_refused(model: nn.Module, path: str, said: str) -> None:
    checkpointer = FPTCheckpointer(model)
    for _ in range(2):  # the second time as the first: nothing is left over from a failed load
        with pytest.raises(WeightsError, match=said) as caught:
            checkpointer.load(path)
        assert "\n" not in str(caught.value) and path in str(caught.value)


@pytest.mark.parametrize("depth", [34, 50])
def test_wrong_depth(depth: int, model: nn.Module, save: Callable[..., str]) -> None:
    path = save(build(small_config(fpt=False, depth=depth)).state_dict())
    assert_refused(model, path, rf"has a ResNet-{depth}, the model a ResNet-18: change MODEL\.RESNETS\.DEPTH")


def test_wrong_depth_of_torchvision_weights(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), path)
    assert_refused(model, str(path), "has a ResNet-34, the model a ResNet-18")


def test_same_depth_of_another_width(model: nn.Module, fpn_model: nn.Module, save: Callable[..., str]) -> None:
    weights = {
        name: w[:8] if name.startswith("backbone.bottom_up.res") else w for name, w in fpn_model.state_dict().items()
    }
    said = r"is of another trunk, only 3 of the 60 tensors.*\(8, 64, 3, 3\) in the file, \(64, 64, 3, 3\) in the model"
    assert_refused(model, save(weights), said)


def test_another_architecture(model: nn.Module, save: Callable[..., str]) -> None:
    said = r"Nothing of the trunk is in .*names like features\.0\.weight, the trunk's like backbone\.bottom_up\."
    assert_refused(model, save({"features.0.weight": torch.zeros(64, 3, 3, 3)}), said)
    assert_refused(model, save({}), r"Nothing of the trunk is in .*names like \(none\)")


def test_checkpoints_without_a_state_dict(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(1)}}, path)
    assert_refused(model, str(path), r"not a checkpoint of weights by name; what it holds is \['epoch', 'state_dict'\]")
    torch.save(torch.ones(1), path)
    assert_refused(model, str(path), "what it holds is Tensor")
    torch.save({"epoch": 3}, tmp_path / "a.pyth")
    assert_refused(model, str(tmp_path / "a.pyth"), r"what it holds is \['epoch'\]")
    (tmp_path / "number.pkl").write_bytes(pickle.dumps(3))
    assert_refused(model, str(tmp_path / "number.pkl"), "what it holds is int")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps({"model": [1, 2], "__author__": "me"}))
    assert_refused(model, str(tmp_path / "list.pkl"), "what it holds is list")


def test_no_file_and_no_weights(model: nn.Module) -> None:
    assert_refused(model, "nowhere/model.pth", "There are no weights nowhere/model.pth")
    assert FPTCheckpointer(model).load("") == {}


def test_names_of_resnets() -> None:
    assert resnet_kind(build(small_config(fpt=True)).state_dict()) == "ResNet-18"
    assert resnet_kind(["res2.0.conv3.weight", "res4.5.conv1.weight"]) == "ResNet (1, 0, 6, 0)"
    assert resnet_kind(["roi_heads.box_head.fc1.weight"]) is None


def test_neck_of_another_width(model: nn.Module, save: Callable[..., str]) -> None:
    cfg = small_config(fpt=False)
    cfg.MODEL.FPN.OUT_CHANNELS = 64
    weights = build(cfg).state_dict()
    said = r"The neck in .* has the width 64, the model's 32: set MODEL\.FPN\.OUT_CHANNELS 64"
    assert_refused(model, save(weights), said)
    trunk = {name: weight for name, weight in weights.items() if name.startswith("backbone.bottom_up.")}
    FPTCheckpointer(model).load(save(trunk))  # a trunk alone has no neck that could be wrong


def test_branches_of_another_width(model: nn.Module, save: Callable[..., str]) -> None:
    cfg = small_config(fpt=True)
    cfg.MODEL.FPT.BRANCH_CHANNELS = 32
    said = r"The neck in .* has the width 32, the model's 16: set MODEL\.FPT\.BRANCH_CHANNELS 32"
    assert_refused(model, save(build(cfg).state_dict()), said)


@pytest.mark.parametrize("trained", [True, False])
def test_weights_of_the_other_kind_of_attention(save: Callable[..., str], trained: bool) -> None:
    """Names and shapes of the linear maps are the same, so that they would load and mean something else."""
    models = []
    for qk_norm in (trained, not trained):
        cfg = small_config(fpt=True)
        cfg.MODEL.FPT.QK_NORM = qk_norm
        models.append(build(cfg))
    path = save(models[0].state_dict())
    with pytest.raises(WeightsError, match=rf"was trained with MODEL\.FPT\.QK_NORM {trained}, .* set it to {trained}"):
        FPTCheckpointer(models[1]).load(path)
    FPTCheckpointer(models[0], whole=True).load(path)


@pytest.mark.parametrize("channels", [8, 16, 32])
@pytest.mark.parametrize("trained", ["concat", "sum"])
def test_weights_of_the_other_kind_of_fusion(save: Callable[..., str], trained: str, channels: int) -> None:
    """With branches as wide as the neck the convolutions have one shape, so that some would load."""
    models = []
    for fuse in (trained, {"concat": "sum", "sum": "concat"}[trained]):
        cfg = small_config(fpt=True)
        cfg.MODEL.FPT.BRANCH_CHANNELS, cfg.MODEL.FPT.FUSE = channels, fuse
        models.append(build(cfg))
    path = save(models[0].state_dict())
    said = rf"was trained with MODEL\.FPT\.FUSE {trained}, .* set it to {trained}, and MODEL\.FPT\.MIN_STRIDE as in"
    with pytest.raises(WeightsError, match=said):
        FPTCheckpointer(models[1]).load(path)
    FPTCheckpointer(models[0], whole=True).load(path)


@pytest.fixture(scope="module")
def gn_weights() -> dict[str, torch.Tensor]:
    cfg = small_config(fpt=False)
    cfg.MODEL.RESNETS.NORM = "GN"
    weights: dict[str, torch.Tensor] = build(cfg).state_dict()
    return weights


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_group_norm_in_place_of_batch_norm(norm: str, gn_weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    cfg = small_config(fpt=True)
    cfg.MODEL.RESNETS.NORM = norm
    model = build(cfg)
    said = r"has no running statistics, as with group norm.*set MODEL\.RESNETS\.NORM to that of the weights, e\.g\. GN"
    zoo, caffe2, trunk = (tmp_path / name for name in ("zoo.pkl", "caffe2.pkl", "trunk.pkl"))
    arrays = {name: weight.numpy() for name, weight in gn_weights.items()}
    zoo.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
    assert_refused(model, str(zoo), said)
    # As Caffe2 names a group norm: conv1_gn_s, res2_0_branch2a_gn_s.
    blobs = {n.replace("_bn_", "_gn_").replace("res_conv1", "conv1"): w for n, w in to_caffe2(gn_weights, 18).items()}
    caffe2.write_bytes(pickle.dumps({"blobs": blobs}))
    assert_refused(model, str(caffe2), said)
    trunk.write_bytes(pickle.dumps({n: w for n, w in blobs.items() if n.startswith(("conv1_", "res"))}))
    assert_refused(model, str(trunk), said)


def test_group_norm_where_it_belongs(gn_weights: dict[str, torch.Tensor], save: Callable[..., str]) -> None:
    cfg = small_config(fpt=True)
    cfg.MODEL.RESNETS.NORM = "GN"
    model = build(cfg, seed=2)
    FPTCheckpointer(model).load(save(gn_weights))
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in gn_weights.items())
