"""The blocks of docs/extending.md do what the page says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_backbone
from torch import Tensor

from fpt_d2.core import GroundingTransformer, Level, ValidSizes, mixture_attention
from fpt_d2.core.similarity import SIMILARITIES
from fpt_d2.engine import read_config
from fpt_d2.model_zoo import get_config_file
from fpt_d2.modeling import FPT_BRANCH_REGISTRY, FPT_PYRAMID_REGISTRY, check_model

from .pages import ROOT, blocks, code_lines, missing_links

PAGE = "extending.md"
PYTHON, YAML = blocks(PAGE), blocks(PAGE, "yaml")
REGISTRIES = (FPT_BRANCH_REGISTRY, FPT_PYRAMID_REGISTRY, BACKBONE_REGISTRY)
SMALL = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
SMALL += ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]
SMALL += ["MODEL.FPN.OUT_CHANNELS", "32", "MODEL.FPT.BRANCH_CHANNELS", "16", "MODEL.FPT.ZERO_INIT_FUSE", "False"]


@pytest.fixture(autouse=True)
def forget_what_a_block_registers() -> Iterator[None]:
    before = [dict(registry._obj_map) for registry in REGISTRIES], dict(SIMILARITIES)
    yield
    for registry, names in zip(REGISTRIES, before[0]):
        registry._obj_map = names
    for name in set(SIMILARITIES) - set(before[1]):
        SIMILARITIES.pop(name)


def run(heading: str) -> dict[str, Any]:
    (block,) = PYTHON[heading]
    names: dict[str, Any] = {}
    exec(compile(block, f"{PAGE}: {heading}", "exec"), names)
    return names


def config(*opts: str, heading: str | None = None) -> CfgNode:
    cfg = read_config(get_config_file("COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"), [*SMALL, *opts])
    if heading is not None:
        (block,) = YAML[heading]
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(block)))
    return cfg


def backbone(cfg: CfgNode) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(cfg).eval()


def padded_images() -> Tensor:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    images[1, :, 40:] = 0
    return images


def test_a_similarity() -> None:
    run("A similarity")
    q, k, v = torch.randn(3, 2, 6, 8, dtype=torch.float64).unbind(0)
    gate = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    out = mixture_attention(q, k, v, gate, similarity="cosine")
    expected = torch.zeros_like(v)
    for part, (qn, kn) in enumerate(zip(q.split(4, 2), k.split(4, 2))):
        scores = 20 * torch.cosine_similarity(qn[:, :, None], kn[:, None], dim=3) / 4**0.5
        expected += gate[:, part, None, None] * scores.softmax(2) @ v
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)


def test_a_similarity_from_a_config() -> None:
    run("A similarity")
    for square in ("0", "3"):
        cfg = config("MODEL.FPT.GT_SIMILARITY", "cosine", "MODEL.FPT.GT_SQUARE_SIZE", square)
        check_model(cfg)
        model = backbone(cfg)
        assert model.fpt.gt["p2_p3"].similarity == "cosine"
        assert all(torch.isfinite(y).all() for y in model(padded_images()).values())
    assert GroundingTransformer(256, similarity="cosine").similarity == "cosine"


def test_a_branch() -> None:
    branch = run("A branch")["GlobalMean"]
    assert code_lines(PYTHON["A branch"][0]) < 15
    cfg = config(heading="A branch")
    check_model(cfg)
    model = backbone(cfg)
    assert isinstance(model.fpt.gt["p2_p5"], branch) and len(model.fpt.gt) == 6 and len(model.fpt.st) == 4
    images = padded_images()
    maps = model.source_pyramid(model.bottom_up(images))
    edge = model.fpt.edges(maps, ValidSizes.read(images))["p2"][1]
    assert edge.branch is model.fpt.gt["p2_p3"]
    out, mean = edge.branch(edge.target, edge.source), edge.source.map[1, :, :5].mean((1, 2))
    expected = edge.branch.linear(mean[:, None, None])
    # p2 gathers at stride 8
    torch.testing.assert_close(out[1, :, :5], expected.expand(-1, 5, 12), rtol=1e-5, atol=1e-5)
    assert out[1, :, 5:].eq(0).all() and out[1, :, :5].ne(0).all()


def test_what_a_level_offers_a_branch() -> None:
    """The table under "Padding", on a level of which one image is padded."""
    image, junk = torch.randn(2, 8, 6, 4, generator=torch.Generator().manual_seed(0)), torch.full((2, 8, 6, 4), 7.0)
    images = torch.ones(2, 3, 6, 4)
    images[1, :, 4:] = 0
    level, alone = Level.of(image, ValidSizes.read(images)), Level(image[1:, :, :4])
    assert level.map[1, :, 4:].eq(0).all() and level.mask[1, 0].sum() == 16 and alone.mask is None
    torch.testing.assert_close(level.mean[1:], alone.mean)
    keys, mask = level.tokens(2)
    torch.testing.assert_close(keys[1][mask[1]], alone.tokens(2)[0][0])
    norm = torch.nn.GroupNorm(2, 8)
    normed = level.normalize(norm, level.map + level.without_padding(junk))
    torch.testing.assert_close(normed[1:, :, :4], norm(alone.map + 7), rtol=1e-4, atol=1e-5)
    assert level.without_padding(junk)[1, :, 4:].eq(0).all() and level.without_padding(junk)[0].eq(7).all()


def test_a_source_pyramid() -> None:
    pyramid = run("A source pyramid")["WeightedTopDown"]
    assert code_lines(PYTHON["A source pyramid"][0]) < 15
    cfg = config(heading="A source pyramid")
    check_model(cfg)
    model, fpn = backbone(cfg), backbone(config())
    assert isinstance(model.pyramid, pyramid) and set(model.pyramid.weight) == {"p2", "p3", "p4"}
    missing = fpn.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    for name, y in model(padded_images()).items():
        torch.testing.assert_close(y, fpn(padded_images())[name])
    torch.nn.init.zeros_(model.pyramid.weight["p2"])
    assert not torch.allclose(model(padded_images())["p2"], fpn(padded_images())["p2"])
    sum(y.square().mean() for y in model(padded_images()).values()).backward()
    assert all(weight.grad is not None for weight in model.pyramid.parameters())


def test_any_backbone_that_is_a_pyramid() -> None:
    cfg = config(heading="Any backbone that is a pyramid")
    check_model(cfg)
    model = backbone(cfg)
    assert type(model.bottom_up).__name__ == "BiFPN" and model.fpt.levels == ("p2", "p3", "p4", "p5", "p6")
    assert {name: tuple(y.shape) for name, y in model(padded_images()).items()} == {
        f"p{n}": (2, 32, 64 >> n, 96 // 2**n if n < 6 else 2) for n in range(2, 7)
    }


def test_a_backbone() -> None:
    names = run("A backbone")
    cfg = config(heading="A backbone")
    model = backbone(cfg)
    assert isinstance(model, names["TwoLevels"])
    assert list(model.neck.transform.branches("res5")) == ["st.res5", "rt.res5_res4"]
    outputs = model(padded_images())
    assert {name: tuple(y.shape) for name, y in outputs.items()} == {"res4": (2, 256, 4, 6), "res5": (2, 256, 2, 3)}
    sum(y.square().mean() for y in outputs.values()).backward()
    assert not [name for name, p in model.neck.named_parameters() if p.grad is None]


def test_ones_own_training_command(tmp_path) -> None:
    """The command of the page knows what my_parts.py has registered: it names it among what is allowed."""
    (script,) = PYTHON["Extending FPT"]
    (tmp_path / "my_parts.py").write_text(PYTHON["A branch"][0])
    (tmp_path / "my_train_net.py").write_text(script)
    command = [sys.executable, "my_train_net.py", "--config-file", get_config_file("Base-RCNN-FPT.yaml")]
    opts = ["MODEL.DEVICE", "cpu", "DATASETS.CHECK", "False", "MODEL.FPT.BRANCHES", "['nothing']"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *opts], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "'nothing'" in done.stderr and "'GlobalMean'" in done.stderr, done.stderr


def test_links() -> None:
    assert not missing_links(PAGE)
