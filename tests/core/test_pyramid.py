"""The pyramid transform: the whole against the formulas, any sizes and levels, padding, training."""

from functools import partial

import pytest
import torch
from torch import nn

from fpt_d2.core import PyramidTransform, reference

from .cases import pyramid_features, randomize, rectangle_masks, relative_error

STRIDES = {"p2": 4, "p3": 8, "p4": 16}
SIZES = {"p2": (16, 24), "p3": (8, 12), "p4": (4, 6)}
VALID = {"p2": (12, 8), "p3": (6, 4), "p4": (3, 2)}
ODD = {"p2": (9, 5), "p3": (5, 3), "p4": (3, 2)}  # where every convolution of stride 2 sees the first padding
OPTIONS = [
    {},
    {"gt_similarity": "embedded", "kv_stride": 2},
    {"gt_similarity": "dot", "rt_final_conv": False},
    {"gt_square_size": 3},
    {"max_kv_tokens": 5},
    {"kv_stride": 2, "max_kv_tokens": 9, "impl": "sdpa"},
]


def valid_sizes(options):
    # a square's place follows from the ratio of the sizes, which alone must be what they are in the canvas
    return VALID if options.get("gt_square_size") else ODD


def build(strides=STRIDES, in_channels=6, seed=0, **options):
    options = {"channels": 8, "gt_num_parts": 2, **options}
    return randomize(PyramidTransform(strides, in_channels, **options).double(), seed)


@pytest.mark.parametrize("options", OPTIONS)
def test_equals_the_reference(options):
    """With masks, the reference cuts each image out of its padding."""
    transform, features = build(**options), pyramid_features(SIZES, 6, batch=2)
    masks = rectangle_masks(SIZES, [SIZES, valid_sizes(options)])
    for m in (None, masks):
        out = transform(features, m)
        expected = reference.pyramid_transform(transform, features, m)
        assert list(out) == list(expected) == list(STRIDES)
        for n in out:
            assert out[n].shape[1] == transform.out_channels(n) == 24
            assert relative_error(out[n], expected[n]) < 1e-12


@pytest.mark.parametrize("options", [*OPTIONS, {"gt_similarity": "dot", "norm": partial(nn.GroupNorm, 2)}])
def test_fused_equals_the_convolution_of_all_branches(options):
    """Values and gradients, with groundings folded into the weight ("dot" without norm) and not."""
    transform, features = build(**options), pyramid_features(SIZES, 6, batch=2)
    masks = rectangle_masks(SIZES, [SIZES, valid_sizes(options)])
    for m in (None, masks):
        source = transform.source(features, m)
        branches = transform(features, m)
        for n in source:
            y, weight = torch.randn(2, 5, *SIZES[n]).double(), torch.randn(5, 24, 3, 3).double().requires_grad_()
            expected = y + nn.functional.conv2d(branches[n], weight, padding=1)
            fused = transform.add_fused(y.clone(), weight, n, source, m)
            assert relative_error(fused, expected) < 1e-12
            inputs = [weight, *(p for p in transform.parameters())]
            loss = torch.randn_like(y)
            for a, b in zip(
                torch.autograd.grad((fused * loss).sum(), inputs, retain_graph=True, allow_unused=True),
                torch.autograd.grad((expected * loss).sum(), inputs, retain_graph=True, allow_unused=True),
            ):
                assert (a is None) == (b is None)
                assert a is None or relative_error(a, b) < 1e-10 or b.abs().max() < 1e-10


@pytest.mark.parametrize("options", OPTIONS)
def test_padding_changes_nothing(options):
    """One image alone, and in a larger canvas with garbage in its padding; without masks it shows."""
    transform, valid = build(**options), valid_sizes(options)
    alone = pyramid_features(valid, 6)
    canvas = {n: 100 * torch.randn(1, 6, h, w, dtype=torch.float64) for n, (h, w) in SIZES.items()}
    for n, (h, w) in valid.items():
        canvas[n][:, :, :h, :w] = alone[n]
    masks = rectangle_masks(SIZES, [valid])
    expected, masked, unmasked = transform(alone), transform(canvas, masks), transform(canvas)
    for n, (h, w) in valid.items():
        assert relative_error(masked[n][:, :, :h, :w], expected[n]) < 1e-10
        assert masked[n][:, :, h:].abs().max() == 0 == masked[n][:, :, :, w:].abs().max()
        assert relative_error(unmasked[n][:, :, :h, :w], expected[n]) > 0.1


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
    options = {
        "channels": channels,
        "branches": [b for b in ("st", "gt", "rt") if draw(0, 4) > 0],
        "st_num_parts": (1, 2, 4)[draw(0, 3)],
        "gt_num_parts": (1, 2, 4)[draw(0, 3)],
        "gt_similarity": ("euclidean", "embedded", "dot")[draw(0, 2 if square else 3)],
        "gt_square_size": square,
        "rt_final_conv": draw(0, 2) == 0,
        "kv_stride": draw(1, 4),
        "max_kv_tokens": (0, 0, 1, 7, 50)[draw(0, 5)],
        "norm": (None, partial(nn.GroupNorm, 2))[draw(0, 2)],
        "impl": ("auto", "chunked", "sdpa")[draw(0, 3)],
        "use_checkpoint": draw(0, 3) == 0,
    }
    valid = [(draw(1, 4 * height + 1), draw(1, 4 * width + 1)) for _ in range(batch)]
    valid = [
        {n: (min(-(-h // s), sizes[n][0]), min(-(-w // s), sizes[n][1])) for n, s in strides.items()} for h, w in valid
    ]
    masks = rectangle_masks(sizes, valid) if draw(0, 2) else None
    return strides, sizes, in_channels, batch, options, masks


def test_200_random_pyramids():
    levels = []
    for seed in range(200):
        strides, sizes, in_channels, batch, options, masks = random_case(seed)
        torch.manual_seed(seed)
        transform = PyramidTransform(strides, in_channels, **options)
        features = {n: x.float() for n, x in pyramid_features(sizes, in_channels, batch, seed).items()}
        with torch.set_grad_enabled(seed % 8 == 0):
            out = transform(features, masks)
        for n, y in out.items():
            assert y.shape == (batch, transform.out_channels(n), *sizes[n]) and torch.isfinite(y).all(), seed
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
    assert len(transform.rt["p4_p2"].down) == 2
    for branches, channels in ((["st"], (8, 8, 8)), (["gt"], (16, 8, 0)), (["rt"], (0, 8, 16)), ([], (0, 0, 0))):
        transform = build(branches=branches)
        assert tuple(map(transform.out_channels, STRIDES)) == channels
        assert [*transform(pyramid_features(SIZES, 6))] == [n for n, c in zip(STRIDES, channels) if c > 0]


def test_every_branch_reads_the_source_and_no_other_branch():
    """A change of p4 alone reaches p3 through its grounding in p4, and through nothing else."""
    transform, features = build(), pyramid_features(SIZES, 6)
    changed = {**features, "p4": features["p4"] + 1}
    before, after = transform(features)["p3"], transform(changed)["p3"]
    same = [torch.equal(a, b) for a, b in zip(before.split(8, 1), after.split(8, 1))]
    assert same == [True, False, True]  # ST, GT from p4, RT from p2


def train(transform, features, masks, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = transform(features, masks)
    loss = sum(y.double().square().sum() for y in out.values())
    loss.backward()
    return [p.grad for p in transform.parameters()]


@pytest.mark.parametrize("options", [{}, {"gt_square_size": 3}])
def test_checkpointing_gives_the_same_gradients(options):
    features, masks = pyramid_features(SIZES, 6), rectangle_masks(SIZES, [VALID])
    plain, recomputed = (train(build(use_checkpoint=use, **options), features, masks) for use in (False, True))
    for a, b in zip(plain, recomputed):
        assert torch.equal(a, b)


def test_every_parameter_learns():
    names = [n for n, _ in build().named_parameters()]
    gradients = train(build(), pyramid_features(SIZES, 6, batch=2), None)
    # a constant added to every key changes no dot-product weight; it moves the mixture's
    assert all(g is not None and g.abs().max() > 0 for g in gradients), dict(zip(names, gradients))


@pytest.mark.parametrize("options", OPTIONS)
def test_bfloat16_training_step_is_finite(options):
    transform = build(**options).float()
    features = {n: x.float() for n, x in pyramid_features(SIZES, 6, batch=2).items()}
    gradients = train(transform, features, rectangle_masks(SIZES, [SIZES, VALID]), autocast=True)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_batch_norm_takes_a_level_of_one_position():
    transform = build({"p2": 4, "p4": 16}, norm=nn.BatchNorm2d)
    out = transform(pyramid_features({"p2": (3, 3), "p4": (1, 1)}, 6, batch=2))
    assert all(torch.isfinite(y).all() for y in out.values())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"branches": ["st", "at"]}, r"branches are \['st', 'at'\]; allowed: each of \['st', 'gt', 'rt'\]"),
        ({"branches": ["st", "st"]}, "at most once"),
        ({"strides": {"p3": 8, "p2": 4}}, "must ascend, fine to coarse, by powers of two"),
        ({"strides": {"p2": 4, "p3": 12}}, "strides are {'p2': 4, 'p3': 12}"),
        ({"strides": {}}, "strides are {}"),
        ({"st_num_parts": 3}, "num_parts is 3"),
        ({"gt_num_parts": 3}, "num_parts is 3"),
        ({"gt_similarity": "cosine"}, "similarity is 'cosine'"),
        ({"impl": "fast"}, "impl is 'fast'"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
