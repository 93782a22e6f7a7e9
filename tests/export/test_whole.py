"""What a file finds in a raw image is what the predictor finds, at sizes that it was not recorded with too; and the
programs of docs/deploy.md run where there is neither Detectron2 nor this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from PIL import Image
from PIL.ExifTags import Base

from fpt_d2.errors import UserError
from fpt_d2.export import whole
from fpt_d2.export.comparing import compare, predict
from fpt_d2.export.whole import export_whole, of_several_sizes
from tests.docs.pages import blocks, code_lines

from .models import MASK_RCNN, RETINANET, photo, predictor, semantic_config, small_config, two_levels

SIZES = [(120, 160), (131, 99), (90, 170), (260, 110)]  # Pillow 13 scales the last by rows first
CLASSES = ["ring", "cell", "Zelle (groß)"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def exported(cfg: CfgNode, export_format: str, folder: Path) -> DefaultPredictor:
    model = predictor(cfg, folder)
    images = [photo(*size) for size in SIZES]
    found = export_whole(cfg, model, export_format, folder, images=images, classes=CLASSES)
    assert found.boxes < 0.01 and found.scores < 1e-4 and found.masks < 0.02
    assert found.objects > 10 or cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor"
    return model


def check_example(heading: str, model: DefaultPredictor, folder: Path, use: str = "") -> None:
    """The program that docs/deploy.md shows prints what the predictor finds, without Detectron2 and this package."""
    (example,) = blocks("deploy.md")[heading]
    assert code_lines(example) <= 15
    lines = example.splitlines()
    if use:  # what stands behind the line's #, in the place of what stands before it
        lines = [f"model = {line.partition('# ')[2]}" if f"# {use}" in line else line for line in lines]
    alone = "import sys\nsys.modules.update(dict.fromkeys(['detectron2', 'LabGym', 'fpt_d2', 'cv2']))\n"
    (folder / "example.py").write_text(alone + "\n".join(lines), encoding="utf-8")
    exif = Image.Exif()
    exif[Base.Orientation] = 6  # stored on its side, as phones do
    on_its_side = Image.fromarray(np.rot90(photo(144, 200)).copy())
    on_its_side.save(folder / "photo.png", exif=exif)  # under the page's name, but without a JPEG's loss
    (folder / "photo.png").rename(folder / "photo.jpg")
    command = [sys.executable, "-X", "utf8", "-P", "example.py"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", timeout=300)
    assert shown.returncode == 0, shown.stderr
    boxes, scores, classes = predict(model, photo(144, 200)[:, :, ::-1])[:3]
    found = [line.rsplit(maxsplit=5) for line in shown.stdout.splitlines()]
    assert len(found) == len(boxes) > 3
    assert [row[0] for row in found] == [CLASSES[number] for number in classes]
    printed = torch.tensor([[float(text) for text in row[1:]] for row in found])
    torch.testing.assert_close(printed[:, 0], scores, atol=1e-3, rtol=0)
    torch.testing.assert_close(printed[:, 1:], boxes, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", [MASK_RCNN, RETINANET])
def test_torchscript(name: str, tmp_path: Path) -> None:
    model = exported(small_config(name), "torchscript", tmp_path)
    files = {"fpt_d2.json": ""}
    run = torch.jit.load(str(tmp_path / "model.ts"), _extra_files=files)
    info = json.loads(files["fpt_d2.json"])
    assert info["classes"] == CLASSES and info["pixel_order"] == "BGR" and info["threshold"] == 0.0
    assert info["outputs"] == ["boxes", "scores", "classes", *(["masks"] if name == MASK_RCNN else [])]
    config = CfgNode.load_cfg(info["config"])
    assert config.MODEL.FPT.MAX_KV_TOKENS == 48 and config.MODEL.WEIGHTS == "" and "/" not in config.OUTPUT_DIR
    assert [info["short_side"], info["long_side"]] == [128, 200]
    for image in (photo(77, 200), photo(260, 180)):  # of other sizes still
        expected = predict(model, image)
        assert len(expected[0]) > 3
        assert compare(run(torch.from_numpy(image)), expected, limit=20).is_small()
    check_example("TorchScript and torch.export", model, tmp_path)


def test_nothing_is_found_where_the_model_finds_nothing(tmp_path: Path) -> None:
    cfg = small_config()
    model = predictor(cfg, tmp_path)
    export_whole(cfg, model, "torchscript", tmp_path, images=[photo(120, 160)], classes=CLASSES)
    program = torch.jit.load(str(tmp_path / "model.ts"))
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = model.model.roi_heads.box_predictor.test_score_thresh = 1.0
    export_whole(cfg, model, "torchscript", tmp_path, images=[photo(120, 160)], classes=CLASSES)
    assert len(program(torch.from_numpy(photo(50, 60)))[0]) > 0
    boxes, scores, classes, masks = torch.jit.load(str(tmp_path / "model.ts"))(torch.from_numpy(photo(50, 60)))
    assert boxes.shape == (0, 4) and scores.shape == classes.shape == (0,) and masks.shape == (0, 50, 60)


@pytest.mark.parametrize("name", ["semantic", MASK_RCNN, RETINANET])
def test_onnx(name: str, tmp_path: Path) -> None:
    runtime, onnx = (pytest.importorskip(package) for package in ("onnxruntime", "onnx"))
    pytest.importorskip("onnxscript")
    model = exported(semantic_config() if name == "semantic" else small_config(name), "onnx", tmp_path)
    assert [path.name for path in tmp_path.glob("*.onnx*")] == ["model.onnx"]  # weights inside
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["height", "width", 3])
    info = session.get_modelmeta().custom_metadata_map
    assert json.loads(info["classes"]) == CLASSES
    assert json.loads(info["outputs"]) == [output.name for output in session.get_outputs()]
    assert "any size" in onnx.load(tmp_path / "model.onnx").graph.input[0].doc_string
    if name != "semantic":
        check_example("ONNX", model, tmp_path)


@pytest.mark.parametrize("name", ["semantic", MASK_RCNN])
def test_torch_export(name: str, tmp_path: Path) -> None:
    cfg = semantic_config() if name == "semantic" else two_levels(small_config(name, MAX_KV_TOKENS=0))
    model = exported(cfg, "torch_export", tmp_path)
    files = {"fpt_d2.json": ""}
    run = torch.export.load(tmp_path / "model.pt2", extra_files=files).module()
    assert json.loads(files["fpt_d2.json"])["classes"] == CLASSES
    assert len(run(torch.from_numpy(np.zeros((60, 90, 3), np.uint8)))) == (1 if name == "semantic" else 4)
    if name != "semantic":
        check_example("TorchScript and torch.export", model, tmp_path, use="torch.export.load")


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of_another_size(module: torch.nn.Module, example: torch.Tensor, path: Path, info: object) -> object:
        path.write_bytes(b"a file")
        return lambda image: module(example)

    cfg = small_config()
    model = predictor(cfg, tmp_path)
    monkeypatch.setitem(whole.WRITERS, "torchscript", of_another_size)
    images = [photo(*size) for size in SIZES]
    found = export_whole(cfg, model, "torchscript", tmp_path, images=images, classes=CLASSES)
    assert not found.is_small()
    assert not list(tmp_path.glob("*.ts"))


def test_an_exporter_that_fails_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("Guard failed: 2 * s == 7\n\n  and forty more lines")

    cfg = small_config()
    monkeypatch.setitem(whole.WRITERS, "torch_export", failing)
    with pytest.raises(UserError, match=r"torch_export does not take this model \(RuntimeError: Guard .*--part") as e:
        export_whole(cfg, predictor(cfg, tmp_path), "torch_export", tmp_path, images=[photo(50, 60)], classes=[])
    assert "\n" not in str(e.value)


def test_images_are_of_several_sizes() -> None:
    assert len({image.shape for image in of_several_sizes([], 3)}) == 3
    given = [photo(50, 60), photo(50, 60)]
    images = of_several_sizes(given, 3)
    assert len({image.shape for image in images}) == 3 and images[0] is given[0]
    assert len(of_several_sizes([photo(50, 60), photo(70, 60), photo(50, 80)], 3)) == 3
