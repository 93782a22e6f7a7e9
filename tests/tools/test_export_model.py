"""What is exported computes what the model computes, at an image size that it was not exported with too."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export_model
import exporters
import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import fpt_d2
from fpt_d2.core.level import grid_size
from fpt_d2.errors import UserError

MAX_KV_TOKENS = 48  # fewer than the 80 and 84 positions of p5 at the tool's two image sizes


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)  # of every test, whichever run


def small_config(name: str, backbone: str) -> CfgNode:
    cfg = model_zoo.get_config(name)
    fpt_d2.add_fpt_config(cfg)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS, cfg.MODEL.BACKBONE.NAME = "cpu", "", backbone
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_BOX_HEAD.FC_DIM = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    cfg.MODEL.FPT.BRANCH_CHANNELS = 16
    cfg.MODEL.FPT.MAX_KV_TOKENS = MAX_KV_TOKENS
    cfg.MODEL.FPT.ZERO_INIT_FUSE = False  # so that what FPT computes is in the outputs
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = cfg.MODEL.RETINANET.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = cfg.TEST.DETECTIONS_PER_IMAGE = 20
    return cfg


def mask_rcnn(levels: int = 4, **options: Any) -> nn.Module:
    """With a pyramid of the coarsest levels alone, for formats that take long; options are keys of MODEL.FPT."""
    cfg = small_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "build_resnet_fpt_backbone")
    cfg.MODEL.FPT.update(options)
    cfg.MODEL.FPN.IN_FEATURES = cfg.MODEL.FPN.IN_FEATURES[-levels:]
    names = [f"p{n}" for n in range(6 - levels, 6)]
    cfg.MODEL.RPN.IN_FEATURES, cfg.MODEL.ROI_HEADS.IN_FEATURES = [*names, "p6"], names
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32 * 2**i] for i in range(levels + 1)]
    return with_statistics(build_model(cfg))


def retinanet() -> nn.Module:
    cfg = small_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "build_retinanet_resnet_fpt_backbone")
    return with_statistics(build_model(cfg))


def with_statistics(model: nn.Module) -> nn.Module:
    """What an untrained model lacks: statistics of its norms, or activations explode, and scores that differ."""
    with torch.no_grad():
        for _ in range(20):
            model.train().backbone(74 * torch.randn(1, 3, 64, 96))  # the spread of pixel values
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_score.weight", "objectness_logits.weight")):
                nn.init.xavier_normal_(parameter)
                # Scores neither so close that rounding sorts them (RetinaNet's head shrinks) nor all at 1.
                parameter *= 1000 if name.startswith("head.") else 0.1
    return model.eval()


def test_the_bound_is_reached_by_other_grids_at_the_two_sizes() -> None:
    for stride in (4, 8, 16, 32):
        sizes = [(height // stride, width // stride) for height, width in exporters.IMAGE_SIZES]
        assert all(height * width > MAX_KV_TOKENS for height, width in sizes)
        assert len({grid_size(*size, MAX_KV_TOKENS) for size in sizes}) == 2


@pytest.mark.parametrize("make", [mask_rcnn, retinanet, functools.partial(mask_rcnn, MAX_KV_TOKENS=0)])
def test_torchscript_of_the_whole_model(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    assert exporters.export(model, "torchscript", tmp_path) < 1e-4
    image = 255 * torch.rand(3, 120, 140)  # of a size that has to be padded
    with torch.no_grad():
        expected = exporters.traceable_model(model, image)(image)
        outputs = torch.jit.load(str(tmp_path / "model.ts"))(image)
    assert len(expected[0]) > 5
    for output, value in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, value, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("options", [{"levels": 4}, {"levels": 2, "MAX_KV_TOKENS": 0}])
def test_torch_export_of_the_backbone(options: dict[str, int], tmp_path: Path) -> None:
    model = mask_rcnn(**options)
    assert exporters.export(model, "torch_export", tmp_path) < 1e-5
    assert (tmp_path / "backbone.pt2").is_file()


def test_onnx_of_the_backbone(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    assert exporters.export(mask_rcnn(levels=2), "onnx", tmp_path) < 1e-4


def test_onnx_says_which_packages_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install onnx onnxruntime onnxscript"):
        exporters.export(nn.Identity(), "onnx", tmp_path)


def test_compiled_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All of torch.compile but the code generation of its default backend, which takes minutes on a CPU.
    backend = CompileCounterWithBackend("eager")
    monkeypatch.setitem(exporters.EXPORTERS, "compile", functools.partial(exporters.export_compile, backend=backend))
    assert exporters.export(mask_rcnn(levels=2), "compile", tmp_path) < 1e-5
    assert backend.frame_count == 1  # one graph for both sizes


def test_difference_sees_a_wrong_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def traced_with_fixed_size(module: nn.Module, example: torch.Tensor, folder: str, divisor: int) -> Any:
        shapes = [x.shape for x in module(example)]
        return lambda images: [x.new_zeros(shape) for x, shape in zip(module(images), shapes)]

    monkeypatch.setitem(exporters.EXPORTERS, "broken", traced_with_fixed_size)
    assert exporters.export(mask_rcnn(levels=2), "broken", tmp_path) == float("inf")


def test_failing_exporter_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config_file: str) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError("Guard failed: 2 * s == 7\n\n  and forty more lines")

    monkeypatch.setitem(exporters.EXPORTERS, "torch_export", failing)
    with pytest.raises(SystemExit) as error:
        export_model.main(["--config-file", config_file, "--format", "torch_export", "--output", str(tmp_path)])
    assert ": torch_export does not take this model (RuntimeError: Guard " in str(error.value)
    assert "\n" not in str(error.value) and "try another --format" in str(error.value)


@pytest.mark.parametrize("export_format", ["torchscript", "torch_export", "onnx"])
def test_squares_are_refused_with_the_remedy(export_format: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="GT_SQUARE_SIZE is 3, .*trained with GT_SQUARE_SIZE 0"):
        exporters.export(mask_rcnn(levels=2, GT_SQUARE_SIZE=3), export_format, tmp_path)


def test_models_that_cannot_be_traced_whole() -> None:
    with pytest.raises(UserError, match="a Linear cannot be traced as a whole; export its backbone: --format onnx"):
        exporters.traceable_model(nn.Linear(1, 1), torch.zeros(3, 8, 8))


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    """A trained model, as far as the tool can tell."""
    cfg = small_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "build_resnet_fpt_backbone")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model_final.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    (tmp_path / "model.yaml").write_text(cfg.dump())
    return str(tmp_path / "model.yaml")


def test_command_line(config_file: str, tmp_path: Path) -> None:
    opts = ["--opts", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0"]  # an untrained model's boxes are too close to call
    argv = ["--config-file", config_file, "--format", "torchscript", "--output", f"{tmp_path}/out"]
    assert export_model.main([*argv, *opts]) == 0
    assert (tmp_path / "out" / "model.ts").is_file()
    with pytest.raises(SystemExit, match="nowhere.pth"):
        weights = ["--opts", "MODEL.WEIGHTS", "nowhere.pth"]
        export_model.main([*argv, *weights])
