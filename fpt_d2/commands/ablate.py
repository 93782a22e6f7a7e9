"""Train variants of a config with several seeds, and lay their results side by side as tables and a picture.

A recipe (a YAML file, see recipes/ and docs/evidence.md; those of recipes/ come with fpt_d2) says what is compared; a
short comparison can be spelled out with --variant: a name and, as far as they differ, a config file and keys. Trainings
that are finished are not repeated, and those that were stopped go on: the same command can be given again, with more
variants or seeds.

Examples:
    fpt-ablate --recipe paper_branches.yaml --output output/paper_branches
    fpt-ablate --recipe paper_branches.yaml --output output/paper_branches --report-only
    fpt-ablate --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml --seeds 1 2 3 \\
        --variant FPT --variant FPN MODEL.FPT.BRANCHES "[]" --metric bbox/AP50 segm/AP50 --baseline FPN \\
        --output output/fpn_or_fpt
    fpt-ablate --variant UFP ufp.yaml --variant FPT ufp_fpt.yaml --metric sem_seg/mIoU --output output/ufp
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..cli import add_opts, exit_on_user_errors, positive_int
from ..errors import UserError
from .ablation.costs import Costs
from .ablation.plan import Training, check_metrics, plan, with_equal_cost
from .ablation.recipe import Recipe, recipe_of
from .ablation.running import environments, evaluate_start, train_all
from .common import make_folder, tool_parser


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add, names = parser.add_argument, ("NAME", "FILE KEY VALUE")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--recipe", type=Path, metavar="FILE", help="what is compared")
    what.add_argument("--variant", nargs="+", action="append", metavar=names, help="once for each, without a recipe")
    add("--config-file", metavar="FILE", help="of each variant that names none itself")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="default the recipe's, or 1")
    add("--metric", nargs="+", help="of an evaluation (default the recipe's, or bbox/AP)")
    add("--baseline", metavar="NAME", help="the variant that the others are compared with, seed by seed")
    add("--with-start", action="store_true", help="evaluate the first variant's MODEL.WEIGHTS, too")
    add("--jobs", type=positive_int, metavar="N", help="trainings at once (default one for each core, or GPU)")
    add("--output", type=Path, required=True, metavar="DIR", help="a folder for each training, and the results")
    add("--report-only", action="store_true", help="tables and picture of what is finished; train nothing")
    add("--merge", nargs="+", type=Path, default=[], metavar="FILE", help="ablation.json of others, for the report")
    add_opts(parser, "config keys of all; comes last")
    return parser


@exit_on_user_errors("Interrupted: the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    recipe = recipe_of(args)
    costs = Costs(recipe, args.output)  # reads every config: a wrong key shows before anything is measured or trained
    if not args.report_only:
        _check_devices(plan(recipe, args.output))
    recipe = _with_costs(recipe, costs, measures=not args.report_only)
    trainings = plan(recipe, args.output)
    unfinished = _check(trainings, recipe.metrics)
    print(f"Trainings: {len(trainings)}, of them finished before: {len(trainings) - len(unfinished)}", flush=True)
    costs.count()
    start = evaluate_start(trainings[0], args.output, recipe.metrics) if args.with_start else {}
    failures = []
    if not args.report_only and unfinished:
        slots = environments(args.jobs, trainings[0].config.MODEL.DEVICE)
        failures = train_all(unfinished, slots, recipe.metrics, costs.step_seconds())
    _report(recipe, trainings, costs, start, args)
    if failures:
        raise SystemExit("\n".join(failures))
    return 0


def _check_devices(trainings: Sequence[Training]) -> None:
    """Raises ConfigError if a model's device is not here."""
    from ..engine.hardware import check_device

    for device in {training.config.MODEL.DEVICE for training in trainings}:
        check_device(device, 1, key="MODEL.DEVICE", on_cpu="--opts MODEL.DEVICE cpu")


def _with_costs(recipe: Recipe, costs: Costs, *, measures: bool) -> Recipe:
    """The recipe with iterations for equal cost, by steps that are measured now unless they have been."""
    if measures and recipe.steps and costs.missing_steps():
        costs.measure()
    names = {name for v in recipe.variants if v.equal_cost_to for name in (v.name, v.equal_cost_to)}
    if unknown := names - costs.step_seconds().keys():
        raise UserError(f"--report-only: the steps of {', '.join(sorted(unknown))} have not been measured in --output")
    return with_equal_cost(recipe, costs.step_seconds())


def _check(trainings: Sequence[Training], metrics: Sequence[str]) -> list[Training]:
    """Those that are not finished. Raises UserError for folders of other settings, and for metrics that are missing."""
    for training in trainings:
        training.check_folder()
    unfinished = [training for training in trainings if not training.is_finished()]
    for training in trainings:
        if training not in unfinished:
            check_metrics(training.variant, training.curves(), metrics)
    return unfinished


def _report(
    recipe: Recipe, trainings: Sequence[Training], costs: Costs, start: dict[str, float], args: argparse.Namespace
) -> None:
    """Print the tables and write ``ablation.{md,json,png}``."""
    from .ablation import report, results

    found = results.merged(results.collect(recipe, trainings, costs, start), args.merge)
    if not found["variants"]:
        if args.report_only:
            raise UserError(f"--report-only: no training of {args.output} is finished")
        return
    results.save(found, make_folder(args.output))
    text = report.write(found, args.output)
    print(f"\n{text}\n\nWrote ablation.md, ablation.json and ablation.png into {args.output}")
