"""Norms over the valid positions of a batch, against formulas over those positions alone."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from . import two_processes
from .cases import level, randomize, relative_error, valid_sizes

CANVAS, SIZES = (6, 7), ((6, 7), (3, 5), (4, 2))
CHANNELS = 8


class DetectronsSyncNorm(nn.BatchNorm2d):
    """Stands for Detectron2's NaiveSyncBatchNorm, a BatchNorm2d too."""


BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, DetectronsSyncNorm)
every_batch_norm = pytest.mark.parametrize("make", BATCH_NORMS)
every_dtype = pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])


def case(make, dtype=torch.float64):
    norm = randomize(make(CHANNELS).double()).to(dtype)
    x = 3 * torch.randn(3, CHANNELS, *CANVAS, generator=torch.Generator().manual_seed(0)).to(dtype) + 1
    return norm, x, level(x, *SIZES)


def valid_values(x):
    """(positions, C) of all images."""
    return torch.cat([image[:, :h, :w].flatten(1).t() for image, (h, w) in zip(x, SIZES)])


@every_dtype
def test_group_norm_is_that_of_the_image_alone(dtype, tolerance):
    norm, x, padded = case(lambda c: nn.GroupNorm(4, c), dtype)
    out = padded.normalize(norm, x)
    for y, image, (h, w) in zip(out, x, SIZES):
        assert relative_error(y[:, :h, :w], norm(image[None, :, :h, :w])[0]) < tolerance
    assert relative_error(out[1, :, :3, :5], norm(x)[1, :, :3, :5]) > 0.01


@every_dtype
@every_batch_norm
def test_batch_norm_in_training_is_that_of_the_valid_positions(make, dtype, tolerance):
    norm, x, padded = case(make, dtype)
    norm.running_mean.fill_(0.5), norm.running_var.fill_(2)
    out = padded.normalize(norm, x)
    values = valid_values(x.double())
    mean, variance = values.mean(0), values.var(0, correction=0)
    expected = (values - mean) * (variance + norm.eps).rsqrt() * norm.weight + norm.bias
    assert out.dtype == dtype and relative_error(valid_values(out), expected) < tolerance
    assert relative_error(norm.running_mean, 0.9 * 0.5 + 0.1 * mean) < tolerance
    assert relative_error(norm.running_var, 0.9 * 2 + 0.1 * values.var(0)) < tolerance  # the unbiased one, as torch's
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_without_padding_changes_nothing(options, training):
    """Values, gradients and running statistics of three steps are torch's own."""
    ours, theirs = (nn.BatchNorm2d(CHANNELS, **options).double().train(training) for _ in range(2))
    x = torch.randn(2, CHANNELS, *CANVAS, dtype=torch.float64, requires_grad=True)
    for step in range(1, 4):
        results = [level(x, CANVAS, CANVAS).normalize(ours, step * x), theirs(step * x)]
        gradients = [torch.autograd.grad(y.sin().sum(), [x, *n.parameters()]) for y, n in zip(results, (ours, theirs))]
        assert relative_error(*results) < 1e-12
        for a, b in zip(*gradients):
            assert relative_error(a, b) < 1e-10
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
        assert relative_error(a, b) < 1e-13


@every_batch_norm
def test_batch_norm_in_inference_is_called(make):
    norm, x, padded = case(make)
    norm.eval().running_mean.fill_(0.5)
    before = copy.deepcopy(norm.state_dict())
    assert torch.equal(padded.normalize(norm, x), norm(x))
    assert all(torch.equal(a, b) for a, b in zip(before.values(), norm.state_dict().values()))


def test_gradients():
    for make in (lambda c: nn.GroupNorm(2, c), nn.BatchNorm2d):
        norm = randomize(make(4).double())
        x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
        mask = valid_sizes((3, 3), (3, 2), (2, 3)).mask()

        def valid_part(x, norm=norm, mask=mask):
            return level(x, (3, 2), (2, 3)).normalize(norm, x) * mask

        assert torch.autograd.gradcheck(valid_part, x)


@pytest.mark.parametrize("make", [lambda c: nn.GroupNorm(2, c), nn.BatchNorm2d])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_narrow_dtypes_are_float32(make, dtype):
    norm, x, _ = case(make, torch.float32)
    x = (x + 60).to(dtype)  # a sum of squares that float16 could not hold
    out, exact = level(x, *SIZES).normalize(norm, x), level(x.float(), *SIZES).normalize(norm, x.float())
    assert out.dtype == dtype and relative_error(valid_values(out), valid_values(exact)) < 1e-2


def test_a_norm_of_each_position_sees_no_mask():
    class LayerNorm(nn.LayerNorm):
        def forward(self, x):
            return F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape).permute(0, 3, 1, 2)

    norm, x, padded = case(LayerNorm)
    assert torch.equal(padded.normalize(norm, x), norm(x))


def test_synchronised_norm_over_two_processes(tmp_path):
    """The images of one are padded and those of the other are not: both compute the statistics of all."""
    script, meeting = Path(two_processes.__file__), str(tmp_path / "meeting")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    other = subprocess.Popen([sys.executable, str(script), meeting, "1"], env=environment, stderr=subprocess.PIPE)
    two_processes.take_part(meeting, 0)
    errors = other.communicate(timeout=60)[1].decode()
    assert other.returncode == 0, errors
