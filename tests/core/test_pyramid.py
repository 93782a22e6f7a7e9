"""The pyramid transform: the whole against the formulas, any sizes and levels, padding, training."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from fpt_d2.core import (
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidTransform,
    RenderingTransformer,
    SelfTransformer,
    ValidSizes,
    reference,
)

from .cases import pyramid_features, randomize, relative_error, valid_sizes

STRIDES = {"p2": 4, "p3": 8, "p4": 16}
SIZES = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6)}
IMAGES = (64, 96)
VALID = {"p2": (12, 8), "p3": (6, 4), "p4": (3, 2)}
ODD = {"p2": (9, 5), "p3": (5, 3), "p4": (3, 2)}  # where every convolution of stride 2 sees the first padding
ST, RT = SelfTransformer, RenderingTransformer
GT = partial(GroundingTransformer, num_parts=2)
Linear = LinearGroundingTransformer
Local = partial(LocalGroundingTransformer, square_size=3, num_parts=2)
POOLED = {"kv_stride": 2, "max_kv_tokens": 9, "impl": "sdpa"}
group_norm = partial(nn.GroupNorm, 2)
OPTIONS = [
    {},
    {"st": partial(ST, kv_stride=2), "gt": partial(GT, similarity="embedded", kv_stride=2)},
    {"gt": Linear, "rt": partial(RT, final_conv=False)},
    {"gt": Local},
    {"st": partial(ST, max_kv_tokens=5), "gt": partial(GT, max_kv_tokens=5)},
    {"st": partial(ST, **POOLED), "gt": partial(GT, **POOLED)},
    {"st": partial(ST, residual=True, temperature="channels"), "rt": partial(RT, gate="authors")},
    {kind: partial(make, norm=group_norm) for kind, make in (("st", ST), ("gt", GT), ("rt", RT))},
    {"fuse": "sum", "min_stride": 8},
    {"min_stride": 16, "gt": partial(GT, max_kv_tokens=5), "rt": partial(RT, gate="authors")},
    {"min_stride": 8, "gt": Local},
]


def image_size(options):
    # a square's place follows from the ratio of the sizes, which alone must be what they are in the canvas
    return (48, 32) if options.get("gt") is Local else (36, 20)


def build(strides=STRIDES, in_channels=6, *, seed=0, channels=8, gt=GT, **options):
    return randomize(PyramidTransform(strides, in_channels, channels, gt=gt, **options).double(), seed)


def by_level(valid, sizes):
    """Valid sizes of each image by level, as the reference takes them."""
    return None if valid is None else {n: valid.at(torch.Size(size)).numbers for n, size in sizes.items()}


def test_the_canvas_is_what_the_constants_say():
    for image, by_name in (((48, 32), VALID), ((36, 20), ODD)):
        assert by_level(valid_sizes(IMAGES, image), SIZES) == {n: [size] for n, size in by_name.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_reference(options):
    """With padding, the reference cuts each image out of it."""
    transform, features = build(**options), pyramid_features(SIZES, 6, batch=2)
    for valid in (None, valid_sizes(IMAGES, IMAGES, image_size(options))):
        out = transform(features, valid)
        expected = reference.pyramid_transform(transform, features, by_level(valid, SIZES))
        assert list(out) == list(expected) == list(STRIDES)
        for n in out:
            assert out[n].shape[1] == (8 if transform.fuse == "sum" else 24)
            assert relative_error(out[n], expected[n]) < 1e-12


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_changes_nothing(options):
    """One image alone, and in a larger canvas with garbage in its padding; where nobody knows of it, it shows."""
    transform, image = build(**options), image_size(options)
    valid = VALID if options.get("gt") is Local else ODD
    alone = pyramid_features(valid, 6)
    canvas = {n: 100 * torch.randn(1, 6, h, w, dtype=torch.float64) for n, (h, w) in SIZES.items()}
    for n, (h, w) in valid.items():
        canvas[n][:, :, :h, :w] = alone[n]
    expected, known, unknown = transform(alone), transform(canvas, valid_sizes(IMAGES, image)), transform(canvas)
    for n, (h, w) in valid.items():
        h, w = -(-h // transform.ratios[n]), -(-w // transform.ratios[n])
        assert relative_error(known[n][:, :, :h, :w], expected[n]) < 1e-10
        assert known[n][:, :, h:].abs().max() == 0 == known[n][:, :, :, w:].abs().max()
        assert relative_error(unknown[n][:, :, :h, :w], expected[n]) > 0.1


def random_case(seed):
    """Strides, sizes, options and masks, drawn from everything that is allowed."""
    random = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (), generator=random))

    names, stride, strides = ["p2", "p3", "p4", "p5", "p6"][: draw(1, 6)], 4, {}
    for name in names:  # gaps (p2, p4) and levels of one size among them
        strides[name] = stride = stride * 2 ** draw(0, 3)
    height, width = draw(1, 22), draw(1, 22)
    sizes = {n: (-(-4 * height // s), -(-4 * width // s)) for n, s in strides.items()}
    if draw(0, 4) == 0:  # a trunk that rounds down
        sizes = {n: (max(1, 4 * height // s), max(1, 4 * width // s)) for n, s in strides.items()}
    channels, batch = (4, 8, 12)[draw(0, 3)], draw(1, 4)
    in_channels = {n: (3, channels)[draw(0, 2)] for n in strides}
    square = (0, 0, 1, 3, 5)[draw(0, 5)]
    norm = (None, group_norm)[draw(0, 2)]
    pooling = {"kv_stride": draw(1, 4), "max_kv_tokens": (0, 0, 1, 7, 50)[draw(0, 5)], "norm": norm}
    attention = {**pooling, "impl": ("auto", "chunked", "sdpa")[draw(0, 3)]}
    grounding = {"num_parts": (1, 2, 4)[draw(0, 3)], "similarity": ("euclidean", "embedded")[draw(0, 2)]}
    gt = partial(GroundingTransformer, **grounding, **attention)
    if square:
        gt = partial(LocalGroundingTransformer, square_size=square, norm=norm, **grounding)
    elif draw(0, 3) == 0:
        gt = partial(Linear, **pooling)
    factories = {
        "st": partial(ST, num_parts=(1, 2, 4)[draw(0, 3)], residual=draw(0, 2) == 0, **attention),
        "gt": gt,
        "rt": partial(RT, final_conv=draw(0, 2) == 0, gate=("paper", "authors")[draw(0, 2)], norm=norm),
    }
    options = {kind: make if draw(0, 4) > 0 else None for kind, make in factories.items()}
    options |= {"channels": channels, "use_checkpoint": draw(0, 3) == 0, "fuse": ("concat", "sum")[draw(0, 2)]}
    options["min_stride"] = 0 if square else (0, stride // 2, stride, 2 * stride)[draw(0, 4)]
    images = [(draw(1, 4 * height + 1), draw(1, 4 * width + 1)) for _ in range(batch)]
    valid = ValidSizes.of(images, torch.empty(batch, 1, 4 * height, 4 * width)) if draw(0, 2) else None
    return strides, sizes, in_channels, batch, options, valid


def test_200_random_pyramids():
    levels = []
    for seed in range(200):
        strides, sizes, in_channels, batch, options, valid = random_case(seed)
        torch.manual_seed(seed)
        transform = PyramidTransform(strides, in_channels, **options)
        features = {n: x.float() for n, x in pyramid_features(sizes, in_channels, batch, seed).items()}
        with torch.set_grad_enabled(seed % 8 == 0):
            out = transform(features, valid)
        for n, y in out.items():
            channels = options["channels"] * (1 if transform.fuse == "sum" else len(transform.branches(n)))
            size = [-(-side // transform.ratios[n]) for side in sizes[n]]
            assert y.shape == (batch, channels, *size) and torch.isfinite(y).all(), seed
        if seed % 8 == 0 and out:
            sum(y.square().mean() for y in out.values()).backward()
            assert all(torch.isfinite(p.grad).all() for p in transform.parameters() if p.grad is not None), seed
        levels.append(len(out))
    assert set(levels) == {0, 1, 2, 3, 4, 5}


def test_branches_are_the_papers():
    """Top level without grounding, bottom level without rendering; each branch can be off."""
    transform = build()
    assert list(transform.gt) == ["p2_p3", "p2_p4", "p3_p4"] and list(transform.rt) == ["p3_p2", "p4_p2", "p4_p3"]
    assert list(transform.st) == list(STRIDES)
    assert list(transform.branches("p3")) == ["st.p3", "gt.p3_p4", "rt.p3_p2"]
    assert len(transform.rt["p4_p2"].down) == 2
    off = {"st": None, "gt": None, "rt": None}
    for kept, numbers in ({"st": ST}, (1, 1, 1)), ({"gt": GT}, (2, 1, 0)), ({"rt": RT}, (0, 1, 2)), ({}, (0, 0, 0)):
        transform = build(**off | kept)
        assert tuple(len(transform.branches(n)) for n in STRIDES) == numbers
        assert [*transform(pyramid_features(SIZES, 6))] == [n for n, number in zip(STRIDES, numbers) if number > 0]


def test_levels_of_any_name():
    """An underscore in a name, and a name that is the beginning of another one."""
    names = dict(zip(STRIDES, ("level_2", "level_2_b", "level")))
    transform, other = build(), build({names[n]: stride for n, stride in STRIDES.items()})
    features = pyramid_features(SIZES, 6)
    expected, out = transform(features), other({names[n]: x for n, x in features.items()})
    for n, name in names.items():
        assert torch.equal(out[name], expected[n])
        assert len(other.branches(name)) == 3
    assert list(other.branches("level_2")) == ["st.level_2", "gt.level_2_level_2_b", "gt.level_2_level"]


def test_a_branch_of_ones_own_is_any_module_of_target_and_source():
    class Difference(nn.Module):
        def __init__(self, channels):
            super().__init__()

        def forward(self, target, source):
            return target.map - source.mean

    features = pyramid_features(SIZES, 8)
    out = build(in_channels=8, st=None, gt=Difference, rt=None)(features)
    means = [features[n].mean((2, 3), keepdim=True) for n in ("p3", "p4")]
    assert torch.equal(out["p2"], torch.cat([features["p2"] - mean for mean in means], 1))


def test_every_branch_reads_the_source_and_no_other_branch():
    """A change of p4 alone reaches p3 through its grounding in p4, and through nothing else."""
    transform, features = build(), pyramid_features(SIZES, 6)
    changed = {**features, "p4": features["p4"] + 1}
    before, after = transform(features)["p3"], transform(changed)["p3"]
    same = [torch.equal(a, b) for a, b in zip(before.split(8, 1), after.split(8, 1))]
    assert same == [True, False, True]  # ST, GT from p4, RT from p2


def train(transform, features, valid, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = transform(features, valid)
    loss = sum(y.double().square().sum() for y in out.values())
    loss.backward()
    return [p.grad for p in transform.parameters()]


@pytest.mark.parametrize("options", [{}, {"gt": Local}])
def test_checkpointing_gives_the_same_gradients(options):
    features, valid = pyramid_features(SIZES, 6), valid_sizes(IMAGES, (48, 32))
    plain, recomputed = (train(build(use_checkpoint=use, **options), features, valid) for use in (False, True))
    for a, b in zip(plain, recomputed):
        assert relative_error(a, b) < 1e-13  # a mean that branches share is another order of its gradient's terms


@pytest.mark.parametrize("padded", [True, False])
def test_checkpointing_counts_a_batch_once(padded):
    features = pyramid_features(SIZES, 6, batch=2)
    valid = valid_sizes(IMAGES, IMAGES, (48, 32)) if padded else None
    modules = [build(use_checkpoint=use, st=partial(SelfTransformer, norm=nn.BatchNorm2d)) for use in (False, True)]
    for module in modules:
        train(module.train(), features, valid)
    for (name, plain), recomputed in zip(modules[0].named_buffers(), modules[1].buffers()):
        assert torch.equal(plain, recomputed), name


def test_every_parameter_learns():
    names = [n for n, _ in build().named_parameters()]
    gradients = train(build(), pyramid_features(SIZES, 6, batch=2), None)
    # a constant added to every key changes no dot-product weight; it moves the mixture's
    assert all(g is not None and g.abs().max() > 0 for g in gradients), dict(zip(names, gradients))


@pytest.mark.parametrize("options", OPTIONS)
def test_bfloat16_training_step_is_finite(options):
    transform = build(**options).float()
    features = {n: x.float() for n, x in pyramid_features(SIZES, 6, batch=2).items()}
    gradients = train(transform, features, valid_sizes(IMAGES, IMAGES, (48, 32)), autocast=True)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_batch_norm_takes_a_level_of_one_position():
    transform = build(
        {"p2": 4, "p4": 16}, **{k: partial(m, norm=nn.BatchNorm2d) for k, m in (("st", ST), ("gt", GT), ("rt", RT))}
    )
    out = transform(pyramid_features({"p2": (3, 3), "p4": (1, 1)}, 6, batch=2))
    assert all(torch.isfinite(y).all() for y in out.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"strides": {"p3": 8, "p2": 4}}, "strides is .*; allowed: fine to coarse, each the one before times a power"),
        ({"strides": {"p2": 4, "p3": 12}}, "strides is {'p2': 4, 'p3': 12}"),
        ({"strides": {}}, "strides is {}"),
        ({"fuse": "mean"}, "fuse is 'mean'; allowed: 'concat' or 'sum'"),
        ({"min_stride": -4}, "min_stride is -4; allowed: 0, or the stride of a level times a power of two"),
        ({"min_stride": 12}, "min_stride is 12"),
        ({"min_stride": 16, "gt": Local}, "min_stride is 16; allowed: with a square no more than the stride of what"),
        ({"channels": 0}, "channels is 0; allowed: a positive number"),
        ({"st": partial(ST, num_parts=3)}, "num_parts is 3"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
