"""The heads for semantic segmentation: their losses, their contexts, and the models of the configs end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.projects.deeplab.loss import DeepLabCE
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fpt_d2.errors import ConfigError
from fpt_d2.model_zoo import get_config
from fpt_d2.modeling import ObjectContext, PyramidPooling, PyramidSegHead
from fpt_d2.modeling.sem_seg.head import aux_classifier
from fpt_d2.modeling.sem_seg.losses import sem_seg_loss

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*-SemanticSegmentation/*.yaml"))
CITYSCAPES = [name for name in NAMES if name.startswith("Cityscapes")]
KINDS = [name for name in CITYSCAPES if "R_50" in name]
NUM_CLASSES = {"Cityscapes": 19, "ADE20K": 150, "VOC12": 21, "LIP": 20}
IGNORE = 255


def tiny_config(name: str) -> CfgNode:
    """The config in all but width, for the CPU."""
    cfg = get_config(name)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = (
        4,
        8,
        8,
    )
    cfg.MODEL.UFP.OUT_CHANNELS = cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.FPT.BRANCH_CHANNELS = 8
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32  # Detectron2's Semantic FPN head has GN over 32 groups
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    return cfg


def batch(*sizes: tuple[int, int], num_classes: int = 5) -> list[dict[str, Any]]:
    """Images in which blocks of one color are one class; a corner of each is not labelled."""
    random = torch.Generator().manual_seed(0)
    inputs = []
    for height, width in sizes:
        coarse = torch.randint(num_classes, (1, 1, 3, 4), generator=random)
        labels = F.interpolate(coarse.float(), size=(height, width)).long()[0, 0]
        labels[:8, :8] = IGNORE
        inputs.append({"image": labels.expand(3, -1, -1).clamp(max=num_classes) * 40.0, "sem_seg": labels})
    return inputs


def train_losses(model: nn.Module, inputs: list[dict[str, Any]], steps: int, lr: float = 0.02) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    totals = []
    for _ in range(steps):
        losses = model.train()(inputs)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(losses["loss_sem_seg"].item())
    return totals


@pytest.mark.parametrize("name", KINDS)
def test_models_of_the_configs_train_and_predict(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(name))
    losses = train_losses(model, batch((72, 80), (64, 96)), 2)
    assert all(math.isfinite(loss) for loss in losses)
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
    with torch.no_grad():
        outputs = model.eval()([{**x, "height": 50, "width": 61} for x in batch((70, 83), (33, 47))])
    for output in outputs:  # K x H x W scores at the size that was asked for
        assert output["sem_seg"].shape == (5, 50, 61) and output["sem_seg"].isfinite().all()


def test_training_learns() -> None:
    torch.manual_seed(0)
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_fpt_R_50.yaml")
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "cross_entropy"
    losses = train_losses(build_model(cfg), batch((48, 64), (48, 64)), 20, lr=0.05)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


@pytest.mark.parametrize("name", CITYSCAPES)
def test_every_model_builds(name: str) -> None:
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    depth = 101 if "R_101" in name else 50
    assert cfg.MODEL.RESNETS.DEPTH == depth and len(model.backbone.bottom_up.res4) == {50: 6, 101: 23}[depth]
    assert (model.backbone.fpt is not None) == ("fpt" in name.lower())
    assert model.sem_seg_head.ignore_value == IGNORE
    if "semantic" not in name:
        levels = [s for n, s in model.backbone.output_shape().items() if n.startswith("u")]
        assert len(levels) == 4 and {(s.channels, s.stride) for s in levels} == {(256, 8)}


@pytest.mark.parametrize("dataset", NUM_CLASSES)
def test_every_data_set_has_the_same_models(dataset: str) -> None:
    names = [name for name in NAMES if name.startswith(dataset) and "semantic" not in name]
    assert len(names) == (6 if dataset == "Cityscapes" else 2)
    for name in names:
        cfg, built = get_config(name), get_config(name.replace(dataset, "Cityscapes", 1))
        assert cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES == NUM_CLASSES[dataset]
        built.MODEL.SEM_SEG_HEAD.NUM_CLASSES = NUM_CLASSES[dataset]
        built.MODEL.SEM_SEG_HEAD.LOSS_TYPE = cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE
        assert cfg.MODEL == built.MODEL
        # whole steps of the trunk: crops then need no padding
        assert all(side % 8 == 0 for side in cfg.INPUT.CROP.SIZE)


@pytest.mark.parametrize("dilations, stride", [((2, 4), 8), ((1, 2), 16)])
def test_dilation_sets_the_stride(dilations: tuple[int, int], stride: int) -> None:
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_R_50.yaml")
    cfg.MODEL.RESNETS.RES4_DILATION, cfg.MODEL.RESNETS.RES5_DILATION = dilations
    model = build_model(cfg).eval()
    assert model.backbone.output_shape()["u31"].stride == model.sem_seg_head.stride == stride
    with torch.no_grad():
        assert model(batch((40, 56)))[0]["sem_seg"].shape == (5, 40, 56)


@pytest.mark.parametrize(
    "key, value",
    [
        ("RESNETS.DEPTH", 18),
        ("RESNETS.RES4_DILATION", 4),
        ("UFP.IN_FEATURE", "res3"),
        ("UFP.KERNELS", [7, 1]),
        ("UFP.KERNELS", [1, 8]),
        ("FPT.GT_SQUARE_SIZE", 4),
        ("SEM_SEG_HEAD.IN_FEATURES", ["u2"]),
        ("SEM_SEG_HEAD.AUX_FEATURE", "res2"),
        ("SEM_SEG_HEAD.LOSS_TYPE", "dice"),
        ("SEM_SEG_HEAD.LOSS_TOP_K", 0.0),
        ("SEM_SEG_HEAD.ASPP_DILATIONS", [6, 12]),
        ("SEM_SEG_HEAD.PPM_BINS", [0]),
        ("SEM_SEG_HEAD.PPM_BINS", []),
        ("SEM_SEG_HEAD.AUX_LOSS_WEIGHT", -0.1),
        ("SEM_SEG_HEAD.ASPP_DROPOUT", 1.0),
        ("SEM_SEG_HEAD.NORM", "XN"),
        ("RESNETS.STEM_TYPE", "deep"),
        ("UFP.KERNELS", []),
        ("UFP.KERNELS", [-1, 3]),
        ("UFP.OUT_CHANNELS", 0),
        ("UFP.NORM", "XN"),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_what_is_allowed(key: str, value: Any) -> None:
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_fpt_R_50.yaml")
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ConfigError) as error:
        build_model(cfg)
    message = str(error.value)
    assert message.startswith(f"MODEL.{key} is ") or "DILATION" in key
    assert key.split(".")[1] in message and "; allowed: " in message
    assert repr(value) in message


def test_levels_of_several_sizes_are_named_with_the_key() -> None:
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_oc_R_50.yaml")
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["res2", "res4"]
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res4", "res5"]
    with pytest.raises(ConfigError, match=r"^MODEL\.SEM_SEG_HEAD\.IN_FEATURES is .*; allowed: levels of one stride"):
        build_model(cfg)


@pytest.mark.parametrize("share, aux", [(32, ""), (64, "res4")])
def test_norm_that_does_not_fit_the_width(share: int, aux: str) -> None:
    """Half of the width is normalised for the auxiliary loss."""
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_fpt_R_50.yaml")
    cfg.MODEL.SEM_SEG_HEAD.NORM, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = "GN", share // 2
    cfg.MODEL.SEM_SEG_HEAD.AUX_FEATURE = aux
    with pytest.raises(ConfigError, match=f"'GN' where {share} divides MODEL.SEM_SEG_HEAD.CONVS_DIM, which is"):
        build_model(cfg)
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = share
    build_model(cfg)


def test_object_context_names_the_key_of_its_attention() -> None:
    cfg = tiny_config("Cityscapes-SemanticSegmentation/ufp_oc_R_50.yaml")
    cfg.MODEL.FPT.ATTENTION_IMPL = "flash"
    with pytest.raises(ConfigError, match=r"^MODEL\.FPT\.ATTENTION_IMPL is 'flash'; allowed: 'auto'"):
        build_model(cfg)


# ---- the loss


def logits_and_labels() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 5, 6, generator=random, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(4, (2, 5, 6), generator=random)
    return logits, labels


@pytest.mark.parametrize("top_k", [1.0, 0.2])
def test_loss_is_the_mean_over_the_hardest_labelled_pixels(top_k: float) -> None:
    logits, labels = logits_and_labels()
    labels[0, 2:] = IGNORE
    probability = logits.detach().softmax(1)
    losses = sorted(
        (
            -math.log(probability[b, label, i, j])
            for b, image in enumerate(labels.tolist())
            for i, row in enumerate(image)
            for j, label in enumerate(row)
            if label != IGNORE
        ),
        reverse=True,
    )
    hardest = losses[: math.ceil(top_k * len(losses))]
    loss = sem_seg_loss(logits, labels, ignore_value=IGNORE, top_k=top_k)
    assert loss.item() == pytest.approx(sum(hardest) / len(hardest), abs=1e-12)
    loss.backward()
    assert logits.grad[0, :, 2:].abs().max() == 0 and logits.grad[1].abs().max() > 0


def test_hard_pixel_mining_is_detectron2s_where_every_pixel_is_labelled() -> None:
    logits, labels = logits_and_labels()
    expected = DeepLabCE(IGNORE, top_k_percent_pixels=0.2)(logits, labels)
    torch.testing.assert_close(sem_seg_loss(logits, labels, ignore_value=IGNORE, top_k=0.2), expected)


@pytest.mark.parametrize("top_k", [1.0, 0.2])
def test_a_batch_without_labels_has_loss_zero(top_k: float) -> None:
    logits, labels = logits_and_labels()
    loss = sem_seg_loss(logits, torch.full_like(labels, IGNORE), ignore_value=IGNORE, top_k=top_k)
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().max() == 0


# ---- the head


def build_head(**options: Any) -> PyramidSegHead:
    torch.manual_seed(0)
    levels = {f"u{k}": ShapeSpec(channels=6, stride=8) for k in (1, 7)}
    aux = ("res4", aux_classifier(3, 8, 4))
    return PyramidSegHead(levels, nn.Conv2d(12, 8, 1), 8, num_classes=4, dropout=0.0, aux=aux, **options)


def features() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {n: torch.randn(2, c, 3, 4, generator=random) for n, c in (("u1", 6), ("u7", 6), ("res4", 3))}


def test_losses_are_weighted() -> None:
    labels = torch.randint(4, (2, 24, 32))
    _, plain = build_head()(features(), labels)
    _, weighted = build_head(loss_weight=2.0, aux_loss_weight=0.1)(features(), labels)
    torch.testing.assert_close(weighted["loss_sem_seg"], 2 * plain["loss_sem_seg"])
    torch.testing.assert_close(weighted["loss_sem_seg_aux"], 0.5 * plain["loss_sem_seg_aux"])


def test_inference_needs_no_auxiliary_feature_and_returns_logits_at_the_images_size() -> None:
    levels = {n: x for n, x in features().items() if n != "res4"}
    logits, losses = build_head().eval()(levels)
    assert logits.shape == (2, 4, 24, 32) and losses == {}


def one_label(value: int) -> Tensor:
    labels = torch.zeros(2, 24, 32, dtype=torch.long)
    labels[1, 5, 6] = value
    return labels


@pytest.mark.parametrize(
    "targets, words",
    [
        (one_label(4), ["label 4", "0 to 3", "NUM_CLASSES is 4", "255"]),
        (one_label(-1), ["label -1", "0 to 3"]),
        (torch.zeros(2, 24, 40, dtype=torch.long), ["(24, 40)", "(24, 32)"]),
        (None, ["sem_seg"]),
    ],
)
def test_bad_masks_raise_one_clear_sentence(targets: Any, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        build_head()(features(), targets)
    assert all(word in str(error.value) for word in words), error.value


def test_levels_of_several_sizes_are_refused() -> None:
    levels = {"p2": ShapeSpec(channels=6, stride=4), "p3": ShapeSpec(channels=6, stride=8)}
    with pytest.raises(ValueError, match="SemSegFPNHead"):
        PyramidSegHead(levels, nn.Identity(), 12, num_classes=4)


# ---- the contexts


def test_object_context_is_attention_over_the_whole_map() -> None:
    torch.manual_seed(0)
    context = ObjectContext(5, 6).double()
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    reduced, attention = context.reduce(x), context.attention
    tokens = reduced.flatten(2).transpose(1, 2)
    q, k, v = attention.query(tokens), attention.key(tokens), attention.value(tokens)
    gathered = (q @ k.transpose(1, 2) / 6**0.5).softmax(-1) @ v
    gathered = gathered.transpose(1, 2).unflatten(2, (4, 3))
    expected = context.project(torch.cat((reduced, gathered), 1))
    torch.testing.assert_close(context(x), expected, rtol=0, atol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_object_context_stores_no_matrix_of_all_pairs() -> None:
    context = ObjectContext(4, 8)
    largest = []
    for side in (64, 96):
        x = torch.randn(1, 4, side, side)
        with LargestTensor() as mode:
            context(x).sum().backward()
        assert mode.elements < side**4 / 4
        largest.append(mode.elements)
    assert largest[1] <= 4 * largest[0]  # linear in the number of positions


def test_pyramid_pooling_carries_every_corner_everywhere() -> None:
    torch.manual_seed(0)
    context = PyramidPooling(4, 8, bins=(1, 2)).double()
    x = torch.randn(1, 4, 12, 12, dtype=torch.float64)
    y = x.clone()
    y[..., 0, 0] += 10
    changed = (context(x) != context(y)).any(1)
    assert changed.float().mean() > 0.9


def test_pyramid_pooling_trains_on_one_image() -> None:
    """Batch normalisation of one value a channel is an error in torch."""
    context = PyramidPooling(4, 8, norm="BN").train()
    context(torch.randn(1, 4, 8, 8)).sum().backward()
