"""MODEL.FPT.LOG_ATTENTION: the entropy against the formula written out, and what of it a training logs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from fpt_d2.core import (
    GroundingTransformer,
    Level,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidTransform,
    SelfTransformer,
    ValidSizes,
    reference,
)
from fpt_d2.core.pyramid import branch_factory
from fpt_d2.core.transformers import MixtureTransformer
from fpt_d2.engine import Trainer, setup
from fpt_d2.engine.attention_log import NUM_QUERIES, AttentionLog, _random_positions, attention_entropy

C = 8
BRANCHES = {
    "self": lambda: SelfTransformer(C),
    "self, channels": lambda: SelfTransformer(C, temperature="channels", kv_stride=2),
    "euclidean": lambda: GroundingTransformer(C),
    "normalised": lambda: GroundingTransformer(C, qk_norm=True),
    "pooled": lambda: GroundingTransformer(C, similarity="embedded", max_kv_tokens=4),
    "local": lambda: LocalGroundingTransformer(C, square_size=3),
    "local, embedded": lambda: LocalGroundingTransformer(C, square_size=5, similarity="embedded"),
    "local, normalised": lambda: LocalGroundingTransformer(C, square_size=3, qk_norm=True),
}


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def levels(scale: float = 1.0) -> tuple[Level, Level]:
    """A fine level, its first image of 7 x 8 of 8 x 10, and a coarse one, of 4 x 4 of 4 x 5; strides 4 and 8."""
    torch.manual_seed(0)
    images = torch.zeros(2, 3, 32, 40)
    sizes = ValidSizes.of([(28, 32), (32, 40)], images)
    fine, coarse = (Level.of(scale * torch.randn(2, C, 32 // s, 40 // s), sizes, stride=s) for s in (4, 8))
    return fine, coarse


def cut(level: Level) -> Tensor:
    """The first image without its padding."""
    height, width = level.valid.numbers[0]
    return level.map[:1, :, :height, :width]


def entropy_of(branch: MixtureTransformer, q: Tensor, k: Tensor) -> float:
    """Mean over the queries of q (Q, C), each with its own keys (Q, K, C)."""
    q, k = (t.unflatten(-1, (branch.num_parts, -1)) for t in (q, k))
    scores = torch.einsum("qnd,qknd->qnk", q, k)
    if branch.similarity == "euclidean" and branch.logit_scale is None:
        scores = -(q.unsqueeze(1) - k).square().sum(3).transpose(1, 2)
    weights = (branch.scale * scores).softmax(2)
    return float(-(weights * weights.log()).sum(2).mean() / math.log(k.shape[1]))


def projected(branch: MixtureTransformer, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """q (1, Q, C) and k (1, K, C) of two maps."""
    q, k = branch.query(target.flatten(2).transpose(1, 2)), branch.key(source.flatten(2).transpose(1, 2))
    return (q, k) if branch.logit_scale is None else reference._normalize_parts(branch, q, k)


def expected_entropy(branch: MixtureTransformer, target: Tensor, source: Tensor) -> float:
    if isinstance(branch, LocalGroundingTransformer):
        return expected_local_entropy(branch, target, source)
    pooled = reference._pool_to_budget(reference._pool_cells(source, branch.kv_stride), branch.max_kv_tokens)
    q, k = projected(branch, target, pooled)
    return entropy_of(branch, q[0], k.expand(q.shape[1], -1, -1))


def expected_local_entropy(branch: LocalGroundingTransformer, target: Tensor, source: Tensor) -> float:
    (height, width), (rows, columns), reach = target.shape[2:], source.shape[2:], branch.square_size // 2
    q, k = projected(branch, target, source)
    k, squares = k[0].view(rows, columns, C), []
    for i in range(height):
        for j in range(width):
            places = [(i // 2 + a, j // 2 + b) for a in range(-reach, reach + 1) for b in range(-reach, reach + 1)]
            inside = [0 <= a < rows and 0 <= b < columns for a, b in places]
            squares.append(torch.stack([k[p] if is_in else torch.zeros(C) for p, is_in in zip(places, inside)]))
    return entropy_of(branch, q[0], torch.stack(squares))


@pytest.mark.parametrize("name", BRANCHES)
@torch.no_grad()
def test_the_entropy_is_that_of_the_formula(name: str) -> None:
    branch, (fine, coarse) = BRANCHES[name](), levels()
    target, source = (fine, fine) if isinstance(branch, SelfTransformer) else (fine, coarse)
    found = attention_entropy(branch, target, source, random())
    assert len(_random_positions(target, random())) == 56 <= NUM_QUERIES  # all of them
    assert found.item() == pytest.approx(expected_entropy(branch, cut(target), cut(source)), abs=1e-5)
    assert 0.05 < found < 0.999
    unpadded = Level(cut(target), stride=4), Level(cut(source), stride=source.stride)
    assert attention_entropy(branch, *unpadded, random()).item() == pytest.approx(found.item(), abs=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert attention_entropy(branch, target, source, random()).item() == pytest.approx(found.item(), abs=0.05)


@pytest.mark.parametrize("name", ["self", "euclidean", "local"])
@torch.no_grad()
def test_the_mean_of_all_keys_has_entropy_one_and_a_single_key_zero(name: str) -> None:
    branch, (fine, coarse) = BRANCHES[name](), levels(scale=3e4)
    entropy = attention_entropy(branch, fine, coarse, random())
    assert 0 <= entropy < (0.2 if name == "local" else 0.02)  # beyond the border a square has several keys of zeros
    for linear in (branch.query, branch.key):
        linear.weight.zero_()
        linear.bias.zero_()
    assert attention_entropy(branch, fine, coarse, random()).item() == pytest.approx(1.0)


def test_a_single_key_has_no_entropy() -> None:
    level = Level(torch.randn(1, C, 1, 1))
    assert attention_entropy(SelfTransformer(C), level, level, random()) is None


def test_positions_are_of_the_image() -> None:
    sizes = ValidSizes.of([(20, 9), (40, 40)], torch.zeros(2, 3, 40, 40))
    level = Level.of(torch.randn(2, C, 40, 40), sizes)
    chosen = _random_positions(level, random())
    assert len(set(chosen.tolist())) == NUM_QUERIES
    assert (chosen // 40 < 20).all() and (chosen % 40 < 9).all()


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fpt = PyramidTransform(
            {"p2": 4, "p3": 8}, C, C, gt=branch_factory(LinearGroundingTransformer), use_checkpoint=True
        )

    def forward(self, features: dict[str, Tensor]) -> Any:
        return self.fpt(features)


def logged(model: Model, features: dict[str, Tensor], iteration: int, max_iter: int = 100) -> dict[str, float]:
    """What an iteration puts into the storage."""
    log, storage = AttentionLog(), EventStorage()
    log.trainer = SimpleNamespace(model=model, iter=iteration, max_iter=max_iter, storage=storage)
    log.before_step()
    outputs = model(features)
    log.after_step()
    sum(output.sum() for output in outputs.values()).backward()
    assert not any(module._forward_hooks for module in model.modules())
    return {name: value for name, (value, _) in storage.latest().items()}


def test_what_is_logged_of_each_branch_and_when() -> None:
    model, features = Model(), {"p2": torch.randn(2, C, 8, 8), "p3": torch.randn(2, C, 4, 4)}
    model.fpt.rt["p3_p2"].out.weight.data.zero_()
    model.fpt.rt["p3_p2"].out.bias.data.zero_()
    assert logged(model, features, iteration=18) == {}
    scalars = logged(model, features, iteration=19)
    assert scalars == pytest.approx(logged(model, features, iteration=41, max_iter=42))
    names = ["st_p2", "st_p3", "gt_p2_p3", "rt_p3_p2"]
    assert sorted(scalars) == sorted([f"fpt/rms/{n}" for n in names] + ["fpt/entropy/st_p2", "fpt/entropy/st_p3"])
    level = Level(features["p2"])
    expected = model.fpt.st["p2"](level, level).square().mean().sqrt() / features["p2"].square().mean().sqrt()
    assert scalars["fpt/rms/st_p2"] == pytest.approx(expected.item(), rel=1e-5)
    assert scalars["fpt/rms/rt_p3_p2"] == 0
    dead = logged(model, {name: torch.zeros_like(x) for name, x in features.items()}, iteration=19)
    assert dead["fpt/entropy/st_p2"] == pytest.approx(1) and math.isfinite(dead["fpt/rms/st_p2"])


def test_a_training_logs_its_branches_and_is_the_same(parse, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = []
    for is_on in (True, False):
        folder = out / str(is_on)
        words = [
            "SOLVER.MAX_ITER",
            3,
            "DATASETS.TEST",
            "()",
            "OUTPUT_DIR",
            str(folder),
            "MODEL.FPT.LOG_ATTENTION",
            is_on,
        ]
        cfg = setup(parse(*words))
        Trainer(cfg).train()
        weights.append(torch.load(folder / "model_final.pth", weights_only=True)["model"])
        metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
        names = {name for line in metrics for name in line if name.startswith("fpt/")}
        assert len([n for n in names if n.startswith("fpt/entropy/")]) == is_on * (4 + 6)
        assert len([n for n in names if n.startswith("fpt/rms/")]) == is_on * (4 + 6 + 6)
        events = EventAccumulator(str(folder))
        events.Reload()
        assert names <= set(events.Tags()["scalars"])
        if is_on:
            last = metrics[-1]
            assert all(0 <= last[n] <= 1.0001 for n in names if "entropy" in n) and last["fpt/rms/gt_p2_p4"] > 0
            monkeypatch.setattr(comm, "is_main_process", lambda: False)
            assert not any(isinstance(hook, AttentionLog) for hook in Trainer(cfg)._hooks)
            monkeypatch.undo()
    for name, weight in weights[0].items():
        assert torch.equal(weight, weights[1][name]), name
