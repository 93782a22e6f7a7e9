"""Peers of FPT that the benchmark alone has: PAFPN, the encoder of Deformable DETR, and the cost of DyHead by formula.

B images, C channels, M heads, L levels, K points of a level, Q positions of all levels together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .workload import Setting

CHANNELS = 256
ENCODER_LEVELS = (8, 16, 32, 64)  # strides
DYHEAD_LEVELS = (8, 16, 32, 64, 128)
LAYERS, HEADS, POINTS, HIDDEN = 6, 8, 4, 1024
BLOCKS = 6
# A bilinear sample is four products; its weight is one more.
SAMPLE = 5


class PAFPN(nn.Module):
    """FPN and a path from fine to coarse over its outputs (PANet, Liu et al., CVPR 2018, section 3.1)."""

    def __init__(self, fpn: nn.Module, levels: Sequence[str], channels: int) -> None:
        super().__init__()
        self.fpn = fpn
        self.down, self.conv = (
            nn.ModuleDict({n: nn.Conv2d(channels, channels, 3, stride=stride, padding=1) for n in levels[1:]})
            for stride in (2, 1)
        )

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps = self.fpn(features)
        for finer, level in zip(list(maps), list(maps)[1:]):
            below = F.relu(self.down[level](maps[finer]))
            maps[level] = F.relu(self.conv[level](maps[level] + below))
        return maps


class DeformableLayer(nn.Module):
    """Each position attends to K points of every level and head (Zhu et al., Deformable DETR, ICLR 2021, equation 3).

    In plain torch, where the authors have a CUDA kernel: all samples, (B, C, Q, L K), are stored.
    """

    def __init__(self) -> None:
        super().__init__()
        points = HEADS * len(ENCODER_LEVELS) * POINTS
        self.offset, self.weight = nn.Linear(CHANNELS, 2 * points), nn.Linear(CHANNELS, points)
        nn.init.uniform_(self.offset.bias, -POINTS, POINTS)  # as far as the authors' start
        self.value, self.output = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, CHANNELS)
        self.ffn = nn.Sequential(nn.Linear(CHANNELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CHANNELS))
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in range(2))

    def forward(self, x: Tensor, position: Tensor, sizes: Sequence[torch.Size]) -> Tensor:
        """(B, Q, C) and what is added to the queries, the levels one after the other, to (B, Q, C)."""
        x = self.norms[0](x + self.attend(x + position, x, sizes))
        return self.norms[1](x + self.ffn(x))

    def attend(self, query: Tensor, x: Tensor, sizes: Sequence[torch.Size]) -> Tensor:
        offsets = self.offset(query).unflatten(2, (HEADS, len(sizes), POINTS, 2)).transpose(1, 2).flatten(0, 1)
        weights = self.weight(query).unflatten(2, (HEADS, 1, -1)).softmax(4).transpose(1, 2).flatten(0, 1)
        values = self.value(x).transpose(1, 2).unflatten(1, (HEADS, -1)).flatten(0, 1)  # (B M, C / M, Q)
        centers = _centers(sizes, x)
        samples = []
        for level, (size, value) in enumerate(zip(sizes, values.split([s.numel() for s in sizes], dim=2))):
            points = centers + 2 * offsets[:, :, level] / x.new_tensor(size[::-1])  # (B M, Q, K, 2)
            samples.append(F.grid_sample(value.unflatten(2, size), points, align_corners=False))
        mixed = (torch.cat(samples, 3) * weights.transpose(1, 2)).sum(3)  # (B M, C / M, Q)
        return self.output(mixed.view(len(x), CHANNELS, -1).transpose(1, 2))


class DeformableEncoder(nn.Module):
    """The encoder of Deformable DETR over res3 to res5 and a coarser level, with the convolutions to its width.

    Without the sines of the positions: what is added to the queries is that of the level, which costs the same.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, CHANNELS, 1) for width in widths]
        convs.append(nn.Conv2d(widths[-1], CHANNELS, 3, stride=2, padding=1))
        self.lateral = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(32, CHANNELS)) for conv in convs)
        self.level = nn.Parameter(torch.randn(len(convs), CHANNELS))
        self.layers = nn.ModuleList(DeformableLayer() for _ in range(LAYERS))

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        *finer, last = (features[f"res{i}"] for i in (3, 4, 5))
        maps = [lateral(x) for lateral, x in zip(self.lateral, (*finer, last, last))]
        sizes = [x.shape[2:] for x in maps]
        positions = [size.numel() for size in sizes]
        x = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], dim=1)
        position = self.level.repeat_interleave(torch.tensor(positions, device=x.device), dim=0, output_size=x.shape[1])
        for layer in self.layers:
            x = layer(x, position, sizes)
        outputs = (y.transpose(1, 2).unflatten(2, size) for y, size in zip(x.split(positions, dim=1), sizes))
        return {f"p{i}": y for i, y in enumerate(outputs, start=3)}


def _centers(sizes: Sequence[torch.Size], like: Tensor) -> Tensor:
    """The middle of each position in its level, (Q, 1, 2): x and y from -1 to 1."""
    levels = []
    for height, width in sizes:
        y, x = ((2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1 for n in (height, width))
        levels.append(torch.stack((x.repeat(height), y.repeat_interleave(width)), dim=1))
    return torch.cat(levels)[:, None]


def deformable_encoder_macs(widths: Sequence[int], setting: Setting) -> int:
    """Multiply-adds of :class:`DeformableEncoder` (Deformable DETR, section 4.1 and appendix A.1), samples included."""
    numbers = _numbers(setting, ENCODER_LEVELS)
    points = len(ENCODER_LEVELS) * POINTS
    # Values and output; offsets and weights; samples; the feed-forward network.
    layer = 2 * CHANNELS**2 + 3 * CHANNELS * HEADS * points + SAMPLE * CHANNELS * points + 2 * CHANNELS * HIDDEN
    laterals = sum(n * width * CHANNELS for n, width in zip(numbers, widths)) + numbers[-1] * 9 * widths[-1] * CHANNELS
    return setting.batch * (LAYERS * sum(numbers) * layer + laterals)


def dyhead_macs(setting: Setting) -> int:
    """Multiply-adds of DyHead's blocks alone, over an FPN's p3 to p7 (Dai et al., CVPR 2021, section 3.2).

    As in the authors' code: every level takes a deformable 3x3 convolution of itself, one of the finer level with
    stride 2, and one of the coarser level at the size of that. Attention over levels and channels works on means: it
    adds nothing to speak of.
    """
    numbers = _numbers(setting, DYHEAD_LEVELS)
    convolved = 3 * sum(numbers) - 2 * numbers[0]
    convolutions = convolved * 9 * (CHANNELS**2 + SAMPLE * CHANNELS)
    offsets = sum(numbers) * 9 * CHANNELS * 27  # x, y and a factor of nine points
    return setting.batch * BLOCKS * (convolutions + offsets)


def _numbers(setting: Setting, strides: Sequence[int]) -> list[int]:
    """Of the positions of each level."""
    return [height * width for height, width in map(setting.level, strides)]
