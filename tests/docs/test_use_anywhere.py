"""The blocks of docs/use_anywhere.md run without Detectron2, those of torch alone without torchvision too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .pages import ROOT, blocks, code_lines, missing_links

PAGE = "use_anywhere.md"
BLOCKS = blocks(PAGE)
BLOCK = """
import sys, warnings
for name in {names!r}:
    sys.modules[name] = None  # as Python marks what it must not import
warnings.simplefilter("ignore")
import torch
torch.manual_seed(0)
"""
NO_DETECTRON2 = BLOCK.format(names=("detectron2", "fvcore", "iopath", "LabGym"))
TORCH_ALONE = BLOCK.format(names=("detectron2", "fvcore", "iopath", "LabGym", "torchvision"))
FUSE_AT_RANDOM = """
for name, parameter in {model}.named_parameters():
    if ".fuse." in name:
        torch.nn.init.normal_(parameter, std=0.05)
"""
SMALL = "model.transform.min_size, model.transform.max_size = (64,), 96\n"


def run(code: str, folder: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_torchvisions_faster_rcnn(tmp_path):
    neck, sizes, training, bounded = BLOCKS["torchvision's Faster R-CNN"]
    assert code_lines(neck) < 10
    setting = neck.replace("resnet50", "resnet18") + SMALL + FUSE_AT_RANDOM.format(model="model")
    check = """
assert ValidSizes.read(batch.tensors) is not None
assert all(torch.isfinite(loss) for loss in losses.values()) and set(losses) >= {"loss_classifier", "loss_rpn_box_reg"}
assert [set(p) for p in predictions] == [{"boxes", "labels", "scores"}] * 2
assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
assert bounded.st["0"].max_kv_tokens == bounded.gt["0_1"].max_kv_tokens == 1024
"""
    run(NO_DETECTRON2 + setting + sizes + training + bounded + check, tmp_path)


def test_the_padding_of_torchvisions_batches_does_not_reach_the_branches(tmp_path):
    neck = BLOCKS["torchvision's Faster R-CNN"][0].replace("resnet50", "resnet18")
    check = """
backbone.double().eval()
x = torch.randn(1, 3, 64, 128, dtype=torch.float64)
maps = backbone.pyramid(x)
alone = backbone.transform(maps)
padded_maps = {n: torch.nn.functional.pad(m, (0, m.shape[3], 0, m.shape[2]), value=7.0) for n, m in maps.items()}
padded = backbone.transform(padded_maps, ValidSizes.read(torch.nn.functional.pad(x, (0, 128, 0, 64))))
for n, expected in alone.items():
    h, w = expected.shape[2:]
    torch.testing.assert_close(padded[n][:, :, :h, :w], expected, rtol=0, atol=1e-10)
    assert padded[n][:, :, h:].eq(0).all() and padded[n][..., w:].eq(0).all()
"""
    run(NO_DETECTRON2 + neck + check, tmp_path)


def test_a_trained_torchvision_detector_starts_as_it_was(tmp_path):
    (start,) = BLOCKS["From a trained torchvision detector"]
    assert 'fasterrcnn_resnet50_fpn(weights="DEFAULT")' in start  # which would be downloaded
    before, line, after = start.partition('model = fasterrcnn_resnet50_fpn(weights="DEFAULT")\n')
    line = "model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None).eval()\n"
    check = """
with torch.no_grad():
    for name, map in model.backbone(images).items():
        torch.testing.assert_close(map, expected[name], rtol=1e-4, atol=1e-5)
assert list(model.backbone(images)) == list(expected) and model.backbone.out_channels == 256
"""
    expect = """
images = torch.randn(2, 3, 64, 96)
images[1, :, 32:] = 0
with torch.no_grad():
    expected = model.backbone(images)
"""
    run(NO_DETECTRON2 + before + line + expect + after + check, tmp_path)


def detector() -> str:
    model, step = BLOCKS["A detector of torch alone"]
    return TORCH_ALONE + model + step


def test_a_detector_of_torch_alone_learns(tmp_path):
    check = """
assert best_score.shape == best_place.shape == (2,)
assert not [n for n, p in detector.named_parameters() if p.grad is None]
for _ in range(20):
    optimizer.zero_grad()
    later = loss_of(detector(images), objects)
    later.backward()
    optimizer.step()
assert later < loss - 0.5, (later, loss)
"""
    run(detector() + check, tmp_path)


def test_exporting(tmp_path):
    (code,) = BLOCKS["Exporting"]
    check = """
import onnxruntime
session = onnxruntime.InferenceSession("detector.onnx")
name = session.get_inputs()[0].name
other = torch.randn(3, 3, 96, 64)
other[0, :, :, 40:] = 0
for x in (images, other):
    with torch.no_grad():
        expected = detector(x)
        recorded = traced(x), program.module()(x), [torch.from_numpy(y) for y in session.run(None, {name: x.numpy()})]
    for outputs in recorded:
        for y, e in zip(outputs, expected):
            torch.testing.assert_close(y, e, rtol=1e-4, atol=1e-5)
assert "fpt_d2::" not in str(traced.inlined_graph)  # as one of our operators is called there
assert not [node for node in program.graph.nodes if "fpt_d2" in str(node.target)]
try: torch.jit.script(detector)
except Exception as error: print(error)
else: raise AssertionError("it can be scripted: the page says that it cannot")
"""
    run(detector() + FUSE_AT_RANDOM.format(model="detector") + code + check, tmp_path)


def test_derivatives(tmp_path):
    (code,) = BLOCKS["Derivatives"]
    check = """
for i in range(2):
    each = grad(output_of)(parameters, {level: x[i] for level, x in maps.items()})
    for name, g in gradients.items():
        torch.testing.assert_close(g[i], each[name], rtol=1e-3, atol=1e-6)

from functools import partial
from torch.func import hessian, jvp
from fpt_d2.core import GroundingTransformer, SelfTransformer
def neck(impl):
    parts = partial(SelfTransformer, impl=impl), partial(GroundingTransformer, impl=impl)
    transform = PyramidTransform({"p2": 4, "p3": 8}, 4, 4, st=parts[0], gt=parts[1])
    return PyramidNeck(transform, 4, 4, zero_init=False).double()
def of(module):
    return lambda p2, p3: module({"p2": p2, "p3": p3})["p2"]
maps = torch.randn(1, 4, 2, 4).double(), torch.randn(1, 4, 1, 2).double()
needing = tuple(m.clone().requires_grad_() for m in maps)
assert torch.autograd.gradgradcheck(of(neck("auto")), needing)
jvp(of(neck("reference")), maps, maps)
for error, impl, use in (
    (NotImplementedError, "auto", lambda f: jvp(f, maps, maps)),
    (NotImplementedError, "auto", lambda f: hessian(lambda x, y: f(x, y).sum())(*maps)),
    (RuntimeError, "sdpa", lambda f: torch.autograd.gradgradcheck(f, needing)),
):
    try: use(of(neck(impl)))
    except error as e: print(e)
    else: raise AssertionError((impl, use))
"""
    run(detector() + FUSE_AT_RANDOM.format(model="detector") + code + check, tmp_path)


def test_links():
    assert not missing_links(PAGE)
