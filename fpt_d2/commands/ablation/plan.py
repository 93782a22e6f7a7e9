"""The trainings of an ablation: each variant with each of its seeds, in a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UserError
from .recipe import Recipe, Variant, folder_name

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# What Detectron2's evaluators call their results; behind a data set's name where several are evaluated.
TASKS = ("bbox", "segm", "keypoints", "box_proposals", "sem_seg", "panoptic_seg")


@dataclass(frozen=True)
class Training:
    """One variant with one seed."""

    variant: str
    seed: int
    config_file: str
    opts: tuple[str, ...]
    folder: Path

    @cached_property
    def config(self) -> CfgNode:
        """Not to be changed. Raises ConfigError if it cannot be read."""
        return read(self.config_file, self.opts)

    @property
    def iterations(self) -> int:
        return int(self.config.SOLVER.MAX_ITER)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """By name; 0 for NaN, which Detectron2 writes where a model has predicted nothing."""
        return {name: [(i, 0.0 if isnan(y) else y) for i, y in curve] for name, curve in self._logged().items()}

    def ends_in_nan(self, metric: str) -> bool:
        return isnan(self._logged()[metric][-1][1])

    def _logged(self) -> dict[str, list[tuple[int, float]]]:
        from ...visualization import read_metrics

        file = self.folder / "metrics.json"
        return read_metrics(file, keep_nan=True) if file.exists() else {}

    def last_record(self) -> dict[str, Any]:
        """What the training has logged last; empty before that."""
        file = self.folder / "metrics.json"
        for line in reversed(file.read_text(encoding="utf-8").splitlines() if file.exists() else []):
            try:
                record: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:  # it is being written
                continue
            if "iteration" in record:
                return record
        return {}

    def check_folder(self) -> None:
        """Raises UserError if it holds a training with other settings, which would pass for this one."""
        import yaml

        file = self.folder / "config.yaml"  # Detectron2 writes it as a training begins
        if not file.exists():
            return
        trained = read(str(file), ["OUTPUT_DIR", self.config.OUTPUT_DIR])  # it may have been moved
        if yaml.safe_load(trained.dump()) != yaml.safe_load(self.config.dump()):  # a file has lists for tuples
            raise UserError(f"{self.folder} was trained with other settings: choose another --output, or remove it")

    def is_finished(self) -> bool:
        return any(is_score(key) and curve[-1][0] >= self.iterations - 1 for key, curve in self.curves().items())


def plan(recipe: Recipe, output: Path) -> list[Training]:
    """All trainings, seed by seed."""
    seeds = dict.fromkeys(seed for variant in recipe.variants for seed in variant.seeds)
    return [_training(v, seed, output) for seed in seeds for v in recipe.variants if seed in v.seeds]


def _training(variant: Variant, seed: int, output: Path) -> Training:
    folder = output / folder_name(variant.name) / f"seed_{seed}"
    own = ("OUTPUT_DIR", str(folder), "SEED", str(seed), "TEST.EXPECTED_RESULTS", "[]")
    return Training(variant.name, seed, variant.config_file, (*variant.opts, *own), folder)


def read(config_file: str, opts: Sequence[str]) -> CfgNode:
    from ...config_file import read_config

    cfg = read_config(config_file, opts)
    cfg.freeze()
    return cfg


def settings_of(cfg: CfgNode) -> str:
    """A short sum of all keys but the seed and the folder: the same for the trainings of a row, anywhere."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.SEED = "", 0
    return hashlib.sha256(cfg.dump().encode()).hexdigest()[:12]


def with_equal_cost(recipe: Recipe, step_seconds: Mapping[str, float]) -> Recipe:
    """The recipe with as many iterations of each variant as its ``equal_cost_to`` asks for."""
    variants = []
    for variant in recipe.variants:
        if variant.equal_cost_to:
            like = recipe.variant(variant.equal_cost_to)
            iterations = read(like.config_file, like.opts).SOLVER.MAX_ITER
            iterations *= step_seconds[like.name] / step_seconds[variant.name]
            keys = scaled_schedule(read(variant.config_file, variant.opts), max(1, round(iterations)))
            variant = replace(variant, opts=(*variant.opts, *keys))
        variants.append(variant)
    return replace(recipe, variants=tuple(variants))


def scaled_schedule(cfg: CfgNode, iterations: int) -> list[str]:
    """The keys that make ``cfg`` a schedule of so many iterations, drops of the rate and evaluations at their share."""
    solver, factor = cfg.SOLVER, iterations / cfg.SOLVER.MAX_ITER
    scaled = sorted({round(step * factor) for step in solver.STEPS})
    steps = tuple(step for step in scaled if 0 < step < iterations)  # of a few iterations some are left
    period = max(1, round(cfg.TEST.EVAL_PERIOD * factor)) if cfg.TEST.EVAL_PERIOD else 0
    warmup = round(solver.WARMUP_ITERS * factor)
    keys = {"MAX_ITER": iterations, "STEPS": steps, "WARMUP_ITERS": warmup}
    words = [word for key, value in keys.items() for word in (f"SOLVER.{key}", repr(value))]
    return [*words, "TEST.EVAL_PERIOD", str(period)]


def is_score(key: str) -> bool:
    """Whether a name in metrics.json is that of an evaluation's result."""
    return any(part.removesuffix("_TTA") in TASKS for part in key.split("/")[:-1])


def check_metrics(name: str, found: Iterable[str], metrics: Sequence[str]) -> None:
    """Raises UserError if not all ``metrics`` are among those that were ``found`` for the variant."""
    scores = sorted(filter(is_score, found))
    if missing := [metric for metric in metrics if metric not in scores]:
        known = ", ".join(score for score in scores if "-" not in score)  # without those of single categories
        raise UserError(f"{name} has no metric {', '.join(missing)}; it has {known or 'not been evaluated'}")
