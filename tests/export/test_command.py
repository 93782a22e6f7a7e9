"""tools/export_model.py: what it writes, and what it refuses before it loads anything."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from fpt_d2.commands import export
from fpt_d2.engine import inference

from .models import photo, save, small_config

KINDS = [
    ("MODEL.META_ARCHITECTURE PanopticFPN", "A PanopticFPN"),
    ("MODEL.META_ARCHITECTURE ProposalNetwork", "A ProposalNetwork"),
    ("MODEL.KEYPOINT_ON True", "Keypoints"),
    (
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE [False,True,True,True] MODEL.RESNETS.DEPTH 50",
        "deformable convolutions|compiled operators",
    ),
    ("TEST.AUG.ENABLED True", "Test-time augmentation"),
    ("MODEL.FPT.GT_SQUARE_SIZE 3", "GT_SQUARE_SIZE is 3, .*trained with GT_SQUARE_SIZE 0"),
]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained model, as far as the tool can tell."""
    folder = tmp_path_factory.mktemp("model")
    save(small_config(), folder)
    return str(folder / "model.yaml")


def arguments(config_file: str, export_format: str, folder: Path, *more: str) -> list[str]:
    return ["--config-file", config_file, "--format", export_format, "--output", str(folder), *more]


def test_it_writes_a_file(config_file: str, tmp_path: Path) -> None:
    Image.fromarray(photo(120, 160)).save(tmp_path / "photo.png")
    images = ["--images", str(tmp_path / "photo.png")]
    assert export.main(arguments(config_file, "torchscript", tmp_path / "out", *images)) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.ts"]
    assert export.main(arguments(config_file, "torchscript", tmp_path / "out", "--part", "backbone")) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["backbone.ts", "model.ts"]


def test_files_of_the_user(config_file: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere.pth"):
        export.main(arguments(config_file, "torchscript", tmp_path, "--opts", "MODEL.WEIGHTS", "nowhere.pth"))
    with pytest.raises(SystemExit, match="nowhere.jpg"):
        export.main(arguments(config_file, "torchscript", tmp_path, "--images", "nowhere.jpg"))


@pytest.mark.parametrize(("opts", "sentence"), KINDS)
def test_kinds_are_refused_before_weights_are_read(
    opts: str, sentence: str, config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "build_predictor", None)
    for export_format in ("torchscript", "torch_export"):
        with pytest.raises(SystemExit, match=sentence) as error:
            export.main(arguments(config_file, export_format, tmp_path / "out", "--opts", *opts.split()))
        assert error.value.code == 2 and "\n" not in str(error.value.__context__)
    assert not (tmp_path / "out").exists()


def test_onnx_says_which_packages_it_needs(config_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install onnx onnxruntime onnxscript"):
        export.main(arguments(config_file, "onnx", tmp_path))


def test_compile_is_of_the_backbone(config_file: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="takes the backbone alone"):
        export.main(arguments(config_file, "compile", tmp_path, "--part", "whole"))


def test_each_class_has_a_name(config_file: str, tmp_path: Path) -> None:
    opts = ["--opts", "MODEL.RETINANET.NUM_CLASSES", "80"]  # of a head that this model lacks
    assert export.main(arguments(config_file, "torchscript", tmp_path, *opts)) == 0
    files = {"fpt_d2.json": ""}
    torch.jit.load(str(tmp_path / "model.ts"), _extra_files=files)
    assert json.loads(files["fpt_d2.json"])["classes"] == ["0", "1", "2"]
