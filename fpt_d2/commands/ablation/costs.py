"""What variants cost, kept in the folder of an ablation, so that a run that goes on compares with the same figures."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import UserError
from ..common import make_folder, users_files
from .plan import read, settings_of
from .recipe import Recipe, Variant

FILE = "costs.json"


class Costs:
    """What each variant costs: ``params_m`` and ``gflops`` of one ``image``; ``step_seconds`` where they were measured.

    They belong to settings: variants that differ in their number of iterations for equal cost alone share them, and
    they count anew where a variant has changed.
    """

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Raises ConfigError if the config of a variant cannot be read."""
        self._recipe, self._file = recipe, folder / FILE
        self._settings = {v.name: settings_of(read(v.config_file, v.opts)) for v in recipe.variants}
        self._rows: dict[str, dict[str, Any]] = self._load()

    def _load(self) -> dict[str, dict[str, Any]]:
        if not self._file.exists():
            return {}
        try:
            with users_files():
                rows: dict[str, dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
                return rows
        except json.JSONDecodeError as error:
            raise UserError(f"{self._file} is not valid JSON: remove it, and the steps are measured again") from error

    def __getitem__(self, variant: str) -> dict[str, Any]:
        return self._rows.get(self._settings[variant], {})

    def step_seconds(self) -> dict[str, float]:
        return {name: self[name]["step_seconds"] for name in self._settings if "step_seconds" in self[name]}

    def missing_steps(self) -> list[Variant]:
        """Variants whose steps have not been measured, one of each settings."""
        known = self.step_seconds()
        return [variant for variant in self._first_of_each() if variant.name not in known]

    def _first_of_each(self) -> list[Variant]:
        first: dict[str, Variant] = {}
        for variant in self._recipe.variants:
            first.setdefault(self._settings[variant.name], variant)
        return list(first.values())

    def count(self) -> None:
        """Count parameters and multiply-adds of what has not been counted yet."""
        for variant in self._first_of_each():
            if "image" not in self[variant.name]:
                self._add(variant.name, _count(variant))
        self._save()

    def measure(self) -> None:
        """Measure the training steps of what has not been measured yet, in turn and in one process.

        Where others have been, one of them is measured again beside them, and their figures are scaled by it: what is
        compared was then measured on a machine as busy.
        """
        missing, known = self.missing_steps(), self.step_seconds()
        anchor = [variant for variant in self._recipe.variants if variant.name in known][:1]
        print(f"Measuring training steps: {'; '.join(variant.name for variant in missing)}", flush=True)
        rounds = _measure([*anchor, *missing], self._recipe.steps, self._recipe.rounds)
        seconds = {name: median(means) for name, means in rounds.items()}
        factor = known[anchor[0].name] / seconds[anchor[0].name] if anchor else 1.0
        for variant in missing:
            means = [factor * mean for mean in rounds[variant.name]]
            self._add(variant.name, {"step_seconds": factor * seconds[variant.name], "step_rounds": means})
        self._save()

    def _add(self, name: str, figures: dict[str, Any]) -> None:
        self._rows.setdefault(self._settings[name], {"variant": name}).update(figures)

    def _save(self) -> None:
        make_folder(self._file.parent)
        with users_files():
            new = self._file.with_suffix(".new")  # the figures must not be lost, whenever this is killed
            new.write_text(json.dumps(self._rows, indent=1) + "\n", encoding="utf-8")
            new.replace(self._file)


def _count(variant: Variant) -> dict[str, Any]:
    """Of one image as large as the config's tests have it; None where it cannot be counted."""
    from .. import model_costs

    cfg = read(variant.config_file, variant.opts)
    size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    try:
        cost = model_costs.measure(variant.name, cfg, *size)
    except model_costs.UncountableError as error:
        print(f"{variant.name}: no cost, as {error}")
        return {"params_m": None, "gflops": None, "image": size}
    return {"params_m": cost.parameters / 1e6, "gflops": cost.total / 1e9, "image": size}


def _measure(variants: Sequence[Variant], steps: int, rounds: int) -> dict[str, list[float]]:
    """Of each variant the mean seconds of a step in each round; in a fresh process, whose memory ends with it."""
    work = [(variant.name, variant.config_file, variant.opts) for variant in variants]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure_steps, work, steps, rounds).result()
        except BrokenProcessPool as error:
            raise UserError(
                f"The process that measures {len(work)} variants was ended by the system, probably for its memory: "
                "take a smaller batch, or fewer variants at once"
            ) from error


def measure_steps(
    variants: Iterable[tuple[str, str, Sequence[str]]], steps: int, rounds: int
) -> dict[str, list[float]]:
    """Train each variant for a few steps, in turn on one thread: name -> mean seconds of a step in each round.

    Seconds are those of the processor, which another busy process changes little, and on a GPU the clock's. Every
    round has the same ``steps`` batches, loaded before. The learning rate is 0: no weights run away from the start.
    """
    import torch

    from ..measuring import measure_time

    torch.set_num_threads(1)
    steppers = {name: _stepper(read(config_file, opts), steps) for name, config_file, opts in variants}
    for step, _ in steppers.values():
        step()  # libraries set up what they need once
    means: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(1, rounds + 1):
        totals = dict.fromkeys(steppers, 0.0)
        for _ in range(steps):
            for name, (step, device) in steppers.items():
                totals[name] += measure_time(step, device).seconds
        for name, total in totals.items():
            means[name].append(total / steps)
        seconds = ", ".join(f"{name} {of_round[-1]:.3g} s" for name, of_round in means.items())
        print(f"Round {number} of {rounds}, a step: {seconds}", flush=True)
    return means


def _stepper(cfg: Any, num_batches: int) -> tuple[Any, str]:
    """A function that makes one training step from the config's start, and the kind of its device."""
    from itertools import cycle, islice

    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.utils.env import seed_all_rng
    from detectron2.utils.events import EventStorage

    from ...checkpoint import FPTCheckpointer
    from ...data import register_from_config
    from ...engine import Trainer

    register_from_config(cfg)
    seed_all_rng(1)  # the same images for all, with as many objects
    model = Trainer.build_model(cfg).train()
    FPTCheckpointer(model, input_format=cfg.INPUT.FORMAT).load(cfg.MODEL.WEIGHTS)
    optimizer = Trainer.build_optimizer(cfg, model)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    batches = list(islice(Trainer.build_train_loader(cfg), num_batches))
    trainer = (AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer)(model, cycle(batches), optimizer)

    def step() -> None:
        with EventStorage():
            trainer.run_step()

    return step, "cuda" if cfg.MODEL.DEVICE.startswith("cuda") else "cpu"
