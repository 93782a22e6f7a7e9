"""Every key of a model: a bad value is one sentence that names it, and a good one reaches its module."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from fpt_d2 import FPT
from fpt_d2.core import ArgumentError, Branch, DropBlock, Fusion, Level, ValidSizes
from fpt_d2.engine.checks import check_that_model_builds
from fpt_d2.errors import ConfigError
from fpt_d2.modeling import check_model
from fpt_d2.modeling.keys import arguments_from

from .models import FASTER_RCNN, patch_fpt, small_config

SQUARE = ["MODEL.FPT.GT_SQUARE_SIZE", 3]


def backbone(*opts: object) -> FPT:
    torch.manual_seed(0)
    model: FPT = build_backbone(small_config(FASTER_RCNN, *opts))
    return model


@pytest.mark.parametrize(
    ("key", "value", "opts"),
    [
        ("FPT.PYRAMID", "panet", []),
        ("FPT.NORM", "XN", []),
        ("FPT.NORM", "GN", []),  # of 32 groups, for 16 channels
        ("FPT.ST_NUM_PARTS", 3, []),
        ("FPT.ST_NUM_PARTS", 0, []),
        ("FPT.ST_TEMPERATURE", "all", []),
        ("FPT.FUSE", "mean", []),
        ("FPT.MIN_STRIDE", 12, []),
        ("FPT.MIN_STRIDE", 32, ["MODEL.FPT.GT_SQUARE_SIZE", 3]),
        ("FPT.GT_NUM_PARTS", 0, []),
        ("FPT.GT_NUM_PARTS", 3, SQUARE),
        ("FPT.GT_SIMILARITY", "cosine", []),
        ("FPT.GT_SIMILARITY", "dot", SQUARE),
        ("FPT.GT_SQUARE_SIZE", 4, []),
        ("FPT.GT_SQUARE_SIZE", -1, []),
        ("FPT.RT_GATE", "both", []),
        ("FPT.KV_STRIDE", 0, []),
        ("FPT.KV_STRIDE", 0, ["MODEL.FPT.BRANCHES", ["gt"], "MODEL.FPT.GT_SIMILARITY", "dot"]),
        ("FPT.MAX_KV_TOKENS", -1, []),
        ("FPT.MAX_KV_TOKENS", -1, ["MODEL.FPT.BRANCHES", ["gt"]]),
        ("FPT.ATTENTION_IMPL", "flash", []),
        ("FPT.ATTENTION_IMPL", "flash", ["MODEL.FPT.BRANCHES", ["gt"]]),
        ("FPT.DROP_BLOCK_PROB", 1.0, []),
        ("FPT.DROP_BLOCK_PROB", -0.1, []),
        ("FPT.DROP_BLOCK_SIZE", 2, []),
        ("FPT.BRANCH_CHANNELS", 0, []),
        ("FPN.NORM", "XN", []),
        ("FPN.IN_FEATURES", ["res2", "res9"], []),
        ("FPN.IN_FEATURES", ["res2", "res4"], []),
        ("FPN.IN_FEATURES", ["res3", "res2"], []),
        ("FPN.IN_FEATURES", [], []),
        ("RESNETS.DEPTH", 20, []),
        ("TRUNK.BUILDER", "build_vgg", []),
        ("TRUNK.NAME", "", ["MODEL.TRUNK.BUILDER", "build_torchvision_backbone"]),
    ],
    ids=str,
)
def test_bad_value_is_named_with_its_key_and_what_is_allowed(key: str, value: Any, opts: list) -> None:
    cfg = small_config(FASTER_RCNN, *opts)
    section, _, leaf = key.partition(".")
    cfg.MODEL[section][leaf] = value
    for check in (build_backbone, check_model):
        with pytest.raises(ConfigError) as error:
            check(cfg)
        sentence = str(error.value)
        assert sentence.startswith(f"MODEL.{key} is {value!r}; allowed: ") and "\n" not in sentence


def test_width_that_a_norm_needs_is_named() -> None:
    with pytest.raises(ConfigError, match="'GN' where 32 divides MODEL.FPT.BRANCH_CHANNELS, which is 16$"):
        backbone("MODEL.FPT.NORM", "GN")
    with pytest.raises(ConfigError, match="'GN' where 32 divides MODEL.FPN.OUT_CHANNELS, which is 48$"):
        backbone("MODEL.FPN.NORM", "GN", "MODEL.FPN.OUT_CHANNELS", 48)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("", "META_ARCHITECTURE"),
        ("BACKBONE", "NAME"),
        ("PROPOSAL_GENERATOR", "NAME"),
        ("RPN", "HEAD_NAME"),
        ("ANCHOR_GENERATOR", "NAME"),
        ("ROI_HEADS", "NAME"),
        ("ROI_BOX_HEAD", "NAME"),
        ("ROI_MASK_HEAD", "NAME"),
        ("ROI_KEYPOINT_HEAD", "NAME"),
        ("SEM_SEG_HEAD", "NAME"),
    ],
)
def test_name_that_is_not_registered_is_named_with_its_key(section: str, key: str) -> None:
    cfg = small_config()
    (cfg.MODEL[section] if section else cfg.MODEL)[key] = "Nothing"
    where = f"MODEL.{section}.{key}" if section else f"MODEL.{key}"
    with pytest.raises(ConfigError, match=rf"^{where} is 'Nothing', which is not registered with Detectron2$"):
        check_model(cfg)


def test_what_detectron2_refuses_is_one_sentence() -> None:
    said = r"The model \(GeneralizedRCNN, .*cannot be built with MODEL.ROI_HEADS.IN_FEATURES \['p9'\]: KeyError 'p9'"
    with pytest.raises(ConfigError, match=said):
        check_that_model_builds(small_config(FASTER_RCNN, "MODEL.ROI_HEADS.IN_FEATURES", ["p9"]))


def test_check_builds_on_no_device_and_leaves_the_config_as_it_is() -> None:
    cfg = small_config(FASTER_RCNN, "MODEL.DEVICE", "cuda", "MODEL.FPN.OUT_CHANNELS", 2**13)
    before = cfg.dump()
    cfg.freeze()
    check_model(cfg)  # 10 GB
    assert cfg.dump() == before


def test_only_refused_arguments_become_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"^A\.B\.SIZE is 3; allowed: 4$"), arguments_from("A.B", side="SIZE"):
        raise ArgumentError("side", 3, "4")
    with pytest.raises(ConfigError, match=r"^A\.B\.WIDTH is 'x'; allowed: 4$"), arguments_from("A.B", side="SIZE"):
        raise ArgumentError("width", "x", "4")
    with pytest.raises(ZeroDivisionError), arguments_from("A.B"):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="^mine$") as error, arguments_from("A.B"):
        raise ValueError("mine")
    assert not isinstance(error.value, ConfigError)


# Values that reach their module


def test_self_transformers_keys() -> None:
    fpt = backbone().fpt
    assert not any(st.residual or st.project is not None or st.scale != (16 / 2) ** -0.5 for st in fpt.st.values())
    fpt = backbone("MODEL.FPT.ST_RESIDUAL", True, "MODEL.FPT.ST_TEMPERATURE", "channels").fpt
    assert all(st.residual and isinstance(st.project, nn.Conv2d) and st.scale == 16**-0.5 for st in fpt.st.values())
    assert all(gt.scale == (16 / 4) ** -0.5 and not gt.residual for gt in fpt.gt.values())
    fpt = backbone("MODEL.FPT.ST_NUM_PARTS", 8, "MODEL.FPT.GT_NUM_PARTS", 2, "MODEL.FPT.ATTENTION_IMPL", "chunked").fpt
    assert {st.num_parts for st in fpt.st.values()} == {8} and {gt.num_parts for gt in fpt.gt.values()} == {2}
    assert {branch.impl for branch in (*fpt.st.values(), *fpt.gt.values())} == {"chunked"}


def test_grounding_transformers_keys() -> None:
    fpt = backbone("MODEL.FPT.GT_SIMILARITY", "embedded", "MODEL.FPT.KV_STRIDE", 2, "MODEL.FPT.MAX_KV_TOKENS", 9).fpt
    assert {gt.similarity for gt in fpt.gt.values()} == {"embedded"}
    branches = (*fpt.st.values(), *fpt.gt.values())
    assert {(branch.kv_stride, branch.max_kv_tokens) for branch in branches} == {(2, 9)}
    assert {type(gt).__name__ for gt in backbone(*SQUARE).fpt.gt.values()} == {"LocalGroundingTransformer"}
    dot = backbone("MODEL.FPT.GT_SIMILARITY", "dot", "MODEL.FPT.KV_STRIDE", 2, "MODEL.FPT.MAX_KV_TOKENS", 9).fpt.gt
    assert {(type(gt).__name__, gt.kv_stride, gt.max_kv_tokens) for gt in dot.values()} == {
        ("LinearGroundingTransformer", 2, 9)
    }


def test_rendering_transformers_keys() -> None:
    assert all(rt.gate is None and rt.out is not None for rt in backbone().fpt.rt.values())
    fpt = backbone("MODEL.FPT.RT_GATE", "authors", "MODEL.FPT.RT_FINAL_CONV", False, "MODEL.FPT.NORM", "BN").fpt
    for rt in fpt.rt.values():
        assert [type(m) for m in rt.gate] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] and rt.out is None


@pytest.mark.parametrize("pyramid", ["fpn", "build_resnet_bifpn_backbone"])
def test_key_of_winograds_algorithm(pyramid: str) -> None:
    """Of branches and fusion; a plain pyramid calls its convolutions."""
    opts = ["MODEL.FPT.PYRAMID", pyramid, "MODEL.FPN.OUT_CHANNELS", 64]

    def allowed(*more: object) -> set[bool]:
        return {m.winograd for m in backbone(*opts, *more).modules() if isinstance(m, (Branch, Fusion))}

    assert allowed() == allowed("MODEL.FPT.WINOGRAD", True) == {True}
    assert allowed("MODEL.FPT.WINOGRAD", False) == allowed("MODEL.FPT.BRANCHES", []) == {False}


def test_keys_of_every_branch() -> None:
    fpt = backbone("MODEL.FPT.NORM", "GN", "MODEL.FPT.BRANCH_CHANNELS", 64, "MODEL.FPT.CHECKPOINT", True).fpt
    assert fpt.use_checkpoint and fpt.channels == 64
    assert all(isinstance(b.norm, nn.GroupNorm) for kind in (fpt.st, fpt.gt, fpt.rt) for b in kind.values())
    assert not backbone().fpt.use_checkpoint


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pyramid", ["fpn", "build_resnet_bifpn_backbone"])
def test_drop_blocks_keys(shared: bool, pyramid: str) -> None:
    opts = ["MODEL.FPT.DROP_BLOCK_PROB", 0.2, "MODEL.FPT.DROP_BLOCK_SIZE", 5, "MODEL.FPT.DROP_BLOCK_SHARED", shared]
    model = backbone(*opts, "MODEL.FPT.PYRAMID", pyramid, "MODEL.FPN.OUT_CHANNELS", 64)
    blocks = [m for m in model.modules() if isinstance(m, DropBlock)]
    assert len(blocks) == (4 if pyramid == "fpn" else 5)
    assert {(m.drop_prob, m.block_size, m.shared) for m in blocks} == {(0.2, 5, shared)}
    dropped = model.train()(torch.randn(1, 3, 64, 64))["p2"] == 0
    assert dropped.any() and bool((dropped == dropped[:, :1]).all()) is shared
    assert not [m for m in backbone("MODEL.FPT.DROP_BLOCK_PROB", 0.0).modules() if isinstance(m, DropBlock)]


# MODEL.FPT.READ_PADDING


def padded(*size: int) -> Tensor:
    x = torch.randn(1, 3, 160, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x[:, :, size[0] :], x[:, :, :, size[1] :] = 0, 0
    return x


@pytest.mark.parametrize("read", [True, False])
def test_padding_is_read_as_the_key_says(read: bool) -> None:
    """What the branches add for one image, alone and within a larger batch, where the trunk sees no border."""
    model, height, width = patch_fpt(READ_PADDING=read), 64, 96
    assert model.read_padding is read
    x = padded(height, width)
    alone, together = (branch_outputs(model, image) for image in (x[:, :, :height, :width], x))
    for level in ("p2", "p3", "p4", "p5"):
        rows, columns = (side // model.output_shape()[level].stride for side in (height, width))
        difference = (together[level][:, :, :rows, :columns] - alone[level]).abs().max()
        assert difference < 1e-9 if read else difference > 1e-4, level
        beyond = together[level][:, :, rows:].abs().max()
        assert beyond == 0 if read else beyond > 1e-4, level


def branch_outputs(model: FPT, x: Tensor) -> dict[str, Tensor]:
    """What the model's own forward pass hands to its fusing convolutions."""
    seen: dict[str, list[Tensor]] = {level: [] for level in model.levels}
    hooks = [
        conv.register_forward_hook(lambda module, inputs, out, level=level: seen[level].append(inputs[0]))
        for level, fusion in model.fusions.items()
        for conv in fusion.fuse
    ]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return {level: torch.cat(maps, dim=1) for level, maps in seen.items()}


@pytest.mark.parametrize("read", [True, False])
def test_key_of_the_padding_reaches_every_backbone(read: bool) -> None:
    opts = ["MODEL.FPT.READ_PADDING", read, "MODEL.FPN.OUT_CHANNELS", 64]
    assert backbone(*opts).read_padding is read
    assert backbone(*opts, "MODEL.FPT.PYRAMID", "build_resnet_bifpn_backbone").read_padding is read
    assert backbone(*opts, "MODEL.FPT.BRANCHES", []).read_padding is False  # nothing depends on it


def test_branches_of_equal_features_do_not_depend_on_the_batch() -> None:
    """Whatever the trunk has in the padding, where its features of the image itself are equal."""
    model = patch_fpt(NORM="GN", BRANCH_CHANNELS=32, MAX_KV_TOKENS=12)
    sizes = ((16, 24), (8, 12), (4, 6), (2, 3))
    small = {f"p{n + 2}": torch.randn(1, 16, *size, dtype=torch.float64) for n, size in enumerate(sizes)}
    large = {n: 100 * torch.randn(2, 16, 2 * x.shape[2], 2 * x.shape[3]).double() for n, x in small.items()}
    for n, x in small.items():
        large[n][:1, :, : x.shape[2], : x.shape[3]] = x
    valid = ValidSizes.of([(64, 96), (128, 192)], torch.zeros(2, 3, 128, 192))
    with torch.no_grad():
        alone, together = model.fpt(small), model.fpt(large, valid)
    for n, x in alone.items():
        torch.testing.assert_close(together[n][:1, :, : x.shape[2], : x.shape[3]], x, rtol=1e-9, atol=1e-9)
    assert Level.of(large["p2"], valid).mask is not None
