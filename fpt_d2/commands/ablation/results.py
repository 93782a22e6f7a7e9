"""What an ablation has found, seed by seed, as the content of its ablation.json: all that table and picture show."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from ...errors import UserError
from ..common import make_folder, users_files
from .costs import Costs
from .plan import Training, settings_of
from .recipe import Recipe, Variant

FILE = "ablation.json"

Row = dict[str, Any]


def collect(recipe: Recipe, trainings: Sequence[Training], costs: Costs, start: Mapping[str, float]) -> dict[str, Any]:
    """The results of those ``trainings`` that are finished.

    Returns:
        ``metrics``; ``start``, what each was before the training, if known; ``unfinished`` trainings and those with
        ``nothing`` predicted, in words; and the ``variants``, each a row with at least one seed.
    """
    finished = [training for training in trainings if training.is_finished()]
    rows = [
        _row(variant, own, costs[variant.name], recipe.metrics)
        for variant in recipe.variants
        if (own := [training for training in finished if training.variant == variant.name])
    ]
    unfinished = [f"{t.variant}, seed {t.seed}" for t in trainings if t not in finished]
    nothing = [f"{t.variant}, seed {t.seed}" for t in finished if any(map(t.ends_in_nan, recipe.metrics))]
    about = {"metrics": list(recipe.metrics), "start": dict(start), "unfinished": unfinished, "nothing": nothing}
    return about | {"variants": rows}


def _row(variant: Variant, trainings: Sequence[Training], cost: Row, metrics: Sequence[str]) -> Row:
    """``curves`` has for each metric and seed every evaluation, (iteration, value)."""
    curves = {str(training.seed): training.curves() for training in trainings}
    times = [curve["time"][-1][1] for curve in curves.values() if "time" in curve]  # not in one of a few iterations
    named = {key: value for key, value in asdict(variant).items() if key in ("baseline", "equal_cost_to", "is_claim")}
    return {
        **cost,
        "variant": variant.name,
        **named,
        "settings": settings_of(trainings[0].config),
        "iterations": trainings[0].iterations,
        "seconds_per_iteration": median(times) if times else None,
        "curves": {m: {seed: [list(point) for point in curve[m]] for seed, curve in curves.items()} for m in metrics},
    }


def save(results: Mapping[str, Any], folder: Path) -> None:
    with users_files():
        (make_folder(folder) / FILE).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def merged(results: dict[str, Any], files: Iterable[Path]) -> dict[str, Any]:
    """``results`` with those of other ablations: more rows, and more seeds of the same rows.

    Raises:
        UserError: a file is not an ablation's, has other metrics, or a row of the same name with other settings or
            the same seed.
    """
    rows = {row["variant"]: row for row in results["variants"]}
    for file in files:
        other = _load(file)
        if missing := [metric for metric in results["metrics"] if metric not in other["metrics"]]:
            raise UserError(f"{file} has no metric {', '.join(missing)}; it has {', '.join(other['metrics'])}")
        for row in other["variants"]:
            curves = {metric: row["curves"][metric] for metric in results["metrics"]}
            known = rows.setdefault(row["variant"], row | {"curves": {metric: {} for metric in curves}})
            if known["settings"] != row["settings"]:
                raise UserError(f"{file}: {row['variant']} was trained with other settings than the one here")
            for metric, seeds in curves.items():
                if twice := seeds.keys() & known["curves"][metric].keys():
                    raise UserError(f"{file}: {row['variant']} has seed {', '.join(sorted(twice))}, which is here too")
                known["curves"][metric] |= seeds
    return results | {"variants": list(rows.values())}


def _load(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(results, dict) or not {"metrics", "variants"} <= results.keys():
        raise UserError(f"{file} is not the ablation.json of an ablation")
    return results
