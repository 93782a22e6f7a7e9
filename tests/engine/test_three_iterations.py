"""The short training of ``make check``: whether train_net.py trains, saves and evaluates at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch


def test_three_iterations(command_line, train_net, out: Path) -> None:
    assert train_net(command_line("SOLVER.MAX_ITER", 3)) == 0
    metrics = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    losses = [value for line in metrics for name, value in line.items() if "loss" in name]
    assert losses and all(map(math.isfinite, losses))
    weights = torch.load(out / "model_final.pth", weights_only=True)
    assert weights["iteration"] == 2 and any("fpt" in name for name in weights["model"])
    assert weights["classes"]["thing"] == ["circle", "square", "triangle", "star", "ring", "cross"]
    assert (out / "inference" / "coco_instances_results.json").is_file()
