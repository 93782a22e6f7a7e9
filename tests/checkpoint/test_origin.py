"""A model that is fed otherwise than its weights want is told which keys to set; no other model is told anything."""

import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from torch import nn

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.checkpoint.origin import expected_input, input_warning

from .caffe2_names import to_caffe2
from .conftest import build, small_config

RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}


def config(*, depth: int = 18, **settings: Any) -> CfgNode:
    cfg = small_config(fpt=True, depth=depth)
    cfg.merge_from_list([part for key, value in settings.items() for part in (key, value)])
    return cfg


@pytest.fixture(scope="module")
def bgr() -> nn.Module:
    return build(config())


@pytest.fixture(scope="module")
def rgb() -> nn.Module:
    return build(config(**RGB))


def test_torchvision(bgr: nn.Module, rgb: nn.Module) -> None:
    assert input_warning(rgb, "r18.pkl", "torchvision") == ""
    assert input_warning(bgr, "r18.pkl", "torchvision") == (
        "The weights r18.pkl come from torchvision. Set INPUT.FORMAT RGB, MODEL.PIXEL_MEAN [123.675, 116.28, 103.53], "
        "MODEL.PIXEL_STD [58.395, 57.12, 57.375]: the model has INPUT.FORMAT BGR, "
        "MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], MODEL.PIXEL_STD [1.0, 1.0, 1.0], which costs accuracy"
    )


def test_stride_of_bottlenecks() -> None:
    model = build(config(depth=50, **RGB))  # Detectron2's default, which is MSRA's
    warning = input_warning(model, "r50.pkl", "torchvision")
    assert "Set MODEL.RESNETS.STRIDE_IN_1X1 False: the model has MODEL.RESNETS.STRIDE_IN_1X1 True" in warning
    assert "FORMAT" not in warning
    assert input_warning(build(config(depth=50)), "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "Caffe2") == ""


def test_caffe2(bgr: nn.Module, rgb: nn.Module) -> None:
    assert input_warning(bgr, "R-50.pkl", "Caffe2") == ""
    warning = input_warning(rgb, "R-50.pkl", "Caffe2")
    assert "Set INPUT.FORMAT BGR, MODEL.PIXEL_MEAN [103.53, 116.28, 123.675]: the model has INPUT.FORMAT RGB" in warning
    assert "PIXEL_STD" not in warning  # some Caffe2 files want 1, others 57
    assert "MODEL.PIXEL_STD [1.0, 1.0, 1.0]" in input_warning(
        rgb, "detectron2://ImageNetPretrained/MSRA/R-50.pkl", "Caffe2"
    )


def test_caffe_means_of_the_original_are_the_same(bgr: nn.Module) -> None:
    cfg = config(**{"MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717]})
    assert input_warning(build(cfg), "R-50.pkl", "Caffe2") == ""


@pytest.mark.parametrize("prefix", ["detectron2:/", "https://dl.fbaipublicfiles.com/detectron2", "cache/detectron2"])
def test_files_of_the_model_zoo_are_known_by_their_path(prefix: str, bgr: nn.Module) -> None:
    folder = f"{prefix}/COCO-InstanceSegmentation"
    assert input_warning(bgr, f"{folder}/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl", "") == ""
    resnext = f"{folder}/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl"
    assert "Set MODEL.PIXEL_STD [57.375, 57.12, 58.395]: the model has" in input_warning(bgr, resnext, "")


def test_without_the_zoo_its_files_are_of_unknown_input(bgr: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detectron2.model_zoo", None)  # as where pkg_resources is missing
    monkeypatch.delattr("detectron2.model_zoo", raising=False)
    resnext = "detectron2://COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl"
    assert input_warning(bgr, resnext, "") == ""


def test_files_of_the_model_zoo_whose_configs_are_in_python(bgr: nn.Module, rgb: nn.Module) -> None:
    folder = "detectron2://new_baselines"
    r50 = f"{folder}/mask_rcnn_R_50_FPN_100ep_LSJ/42047764/model_final_bb69de.pkl"
    assert input_warning(bgr, r50, "") == ""  # as that config has it; its blocks have their stride in the 1x1
    assert "Set INPUT.FORMAT BGR, MODEL.PIXEL_MEAN [103.53, 116.28, 123.675], MODEL.PIXEL_STD [1.0," in input_warning(
        rgb, r50, ""
    )
    bottlenecks = build(config(depth=50, **{"MODEL.RESNETS.STRIDE_IN_1X1": False}))
    assert "Set MODEL.RESNETS.STRIDE_IN_1X1 True" in input_warning(bottlenecks, r50, "")
    regnet = f"{folder}/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ/42047771/model_final_b7fbab.pkl"
    assert "Set MODEL.PIXEL_STD [57.375, 57.12, 58.395]: the model has" in input_warning(bgr, regnet, "")
    vitdet = "detectron2://ViTDet/COCO/mask_rcnn_vitdet_b/f325346929/model_final_61ccd1.pkl"
    assert input_warning(bgr, vitdet, "") == ""  # of a project: not in the zoo


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "ProposalNetwork", "SemanticSegmentor"])
def test_every_meta_architecture_is_checked_for_its_format(name: str) -> None:
    cfg = config(**{**RGB, "MODEL.META_ARCHITECTURE": name})
    model = build(cfg)
    assert not input_warning(model, "r18.pkl", "torchvision", "RGB")
    warning = input_warning(model, "r18.pkl", "torchvision", "BGR")
    assert "Set INPUT.FORMAT RGB: the model has INPUT.FORMAT BGR" in warning


def test_unknown_origins_say_nothing(bgr: nn.Module, rgb: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("INPUT: {FORMAT: RGB}")
    unknown = ["weights.pth", "COCO-Nothing/x/1/model_final_a.pkl", str(tmp_path / "resnet50.pth")]
    assert all(input_warning(model, path, "") == "" for path in unknown for model in (bgr, rgb))


def test_config_beside_a_trained_model(bgr: nn.Module, tmp_path: Path) -> None:
    path = str(tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(config(**RGB).dump())
    assert "Set INPUT.FORMAT RGB" in input_warning(bgr, path, "")
    assert expected_input(path, "")[0] == {**RGB, "MODEL.RESNETS.STRIDE_IN_1X1": True}
    (tmp_path / "config.yaml").write_text("_target_: !!python/object:x.Y {}\n")
    assert input_warning(bgr, path, "") == ""


def test_warning_is_logged_on_loading(bgr: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    FPTCheckpointer(bgr).load(str(path))
    assert "come from torchvision. Set INPUT.FORMAT RGB" in caplog.text


def test_caffe2_file_is_told_by_what_it_lacks(
    rgb: nn.Module, fpn_model: nn.Module, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"blobs": to_caffe2(fpn_model.state_dict(), depth=18)}))
    caplog.set_level(logging.WARNING)
    FPTCheckpointer(rgb).load(str(path))
    assert "come from Caffe2. Set INPUT.FORMAT BGR" in caplog.text
