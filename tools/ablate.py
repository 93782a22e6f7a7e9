#!/usr/bin/env python
"""Train variants of a config with several seeds, and lay their results side by side as a table and a picture.

A variant has a name and, as far as they differ, a config file and keys. Trainings that are finished are not repeated,
and those that were stopped go on: the same command can be given again, with more variants or seeds.

Examples:
    python tools/ablate.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml --seeds 1 2 3 \\
        --variant FPT --variant FPN MODEL.FPT.BRANCHES "[]" --metric bbox/AP50 segm/AP50 --output output/fpn_or_fpt
    python tools/ablate.py --variant UFP ufp.yaml --variant FPT ufp_fpt.yaml --metric sem_seg/mIoU --output output/ufp
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, NamedTuple

from common import make_folder, tool_parser

from fpt_d2.cli import add_opts, exit_on_user_errors, positive_int
from fpt_d2.errors import UserError

if TYPE_CHECKING:
    from detectron2.config import CfgNode

TRAIN_NET = Path(__file__).resolve().parents[1] / "train_net.py"
START = "start"  # its row and folder
# What Detectron2's evaluators call their results; behind a data set's name where several are evaluated.
TASKS = ("bbox", "segm", "keypoints", "box_proposals", "sem_seg", "panoptic_seg")


class Training(NamedTuple):
    """One variant with one seed."""

    variant: str
    seed: int
    config_file: str
    opts: list[str]
    folder: Path

    def config(self) -> CfgNode:
        from fpt_d2.config_file import read_config

        return read_config(self.config_file, self.opts)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        from fpt_d2.visualization import read_metrics

        file = self.folder / "metrics.json"
        return read_metrics(file) if file.exists() else {}

    def check_folder(self) -> None:
        """Raises UserError if it holds a training with other settings, which would pass for this one."""
        import yaml

        cfg, file = self.config(), self.folder / "config.yaml"  # Detectron2 writes it as a training begins
        if not file.exists():
            return
        trained = self._replace(config_file=str(file), opts=["OUTPUT_DIR", cfg.OUTPUT_DIR])  # it may have been moved
        if yaml.safe_load(trained.config().dump()) != yaml.safe_load(cfg.dump()):  # a file has lists for tuples
            raise UserError(f"{self.folder} was trained with other settings: choose another --output, or remove it")

    def is_finished(self) -> bool:
        last = self.config().SOLVER.MAX_ITER - 1
        return any(_is_score(key) and curve[-1][0] >= last for key, curve in self.curves().items())


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    add, names = parser.add_argument, ("NAME", "FILE KEY VALUE")
    add("--config-file", metavar="FILE", help="of the variants that name none")
    add("--variant", nargs="+", action="append", required=True, metavar=names, help="once for each")
    add("--seeds", nargs="+", type=int, default=[1], metavar="SEED", help="default 1")
    add("--with-start", action="store_true", help="evaluate the first variant's MODEL.WEIGHTS, too")
    add("--metric", nargs="+", default=["bbox/AP"], help="of an evaluation (default bbox/AP)")
    add("--jobs", type=positive_int, default=1, metavar="N", help="trainings at once, one thread each if several")
    add("--output", type=Path, required=True, metavar="DIR", help="a folder for each training, and the results")
    add_opts(parser, "config keys of all; comes last")
    return parser


@exit_on_user_errors("Interrupted: the same command goes on")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    trainings = plan(args)
    for training in trainings:  # before anything is trained: a wrong key shows here
        training.check_folder()
    costs = {t.variant: _cost(t) for t in trainings}
    unfinished = [t for t in trainings if not t.is_finished()]
    for training in trainings:
        if training not in unfinished:
            check_metrics(training.variant, training.curves(), args.metric)
    print(f"Trainings: {len(trainings)}, of them finished before: {len(trainings) - len(unfinished)}")
    start = evaluate_start(trainings[0], args) if args.with_start else {}
    train_all(unfinished, args.jobs, args.metric)
    report(trainings, costs, args, start)
    return 0


def plan(args: argparse.Namespace) -> list[Training]:
    """All trainings, seed by seed.

    Raises:
        UserError: variants that are named alike, lack a config file or have a lazy one, or a seed given twice.
    """
    if len(set(args.seeds)) < len(args.seeds):
        raise UserError(f"--seeds {' '.join(map(str, args.seeds))}: give each seed once")
    names = [name for name, *_ in args.variant] + [START] * args.with_start
    if len(set(map(_folder, names))) < len(names):
        raise UserError(f"--variant: the names {', '.join(names)} must differ")
    return [_training(args, seed, *variant) for seed in args.seeds for variant in args.variant]


def _training(args: argparse.Namespace, seed: int, name: str, *keys: str) -> Training:
    has_file = bool(keys) and keys[0].endswith((".yaml", ".yml", ".py"))
    config_file = keys[0] if has_file else args.config_file
    if config_file is None:
        raise UserError(f"--variant {name} names no config file: add one to it, or --config-file")
    if config_file.endswith(".py"):
        raise UserError(f"{config_file} is a lazy config, which cannot be compared here: give a .yaml file")
    folder = args.output / _folder(name) / f"seed_{seed}"
    own = ["OUTPUT_DIR", str(folder), "SEED", str(seed), "TEST.EXPECTED_RESULTS", "[]"]
    return Training(name, seed, config_file, [*args.opts, *keys[has_file:], *own], folder)


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-+." else "_" for c in name)


def _cost(training: Training) -> dict[str, Any]:
    """Of one image as large as the config's tests have it; None where it cannot be counted."""
    import model_costs

    cfg = training.config()
    size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    try:
        cost = model_costs.measure(training.variant, cfg, *size)
    except model_costs.UncountableError as error:
        print(f"{training.variant}: no cost, as {error}")
        return {"params_m": None, "gflops": None, "image": size}
    return {"params_m": cost.parameters / 1e6, "gflops": cost.total / 1e9, "image": size}


def check_metrics(name: str, found: Iterable[str], metrics: Sequence[str]) -> None:
    """Raises UserError if not all ``metrics`` are among those that were ``found`` for the variant."""
    scores = sorted(filter(_is_score, found))
    if missing := [metric for metric in metrics if metric not in scores]:
        known = ", ".join(score for score in scores if "-" not in score)  # without those of single categories
        raise UserError(f"{name} has no metric {', '.join(missing)}; it has {known or 'not been evaluated'}")


def _is_score(key: str) -> bool:
    return any(part.removesuffix("_TTA") in TASKS for part in key.split("/")[:-1])


def train_all(trainings: Sequence[Training], jobs: int, metrics: Sequence[str]) -> None:
    """Train by ``train_net.py``; what it prints is in each folder's ``log.txt``.

    After a failure or Ctrl-C no further training begins; those that run are waited for.

    Raises:
        SystemExit: one failed; its last words are shown.
        UserError: one was evaluated without one of ``metrics``.
    """
    from tqdm import tqdm

    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    stop = Event()

    def train(training: Training) -> None:
        if stop.is_set():
            return
        try:
            if failure := _train(training, environment):
                raise SystemExit(f"{training.variant}, seed {training.seed} failed:\n{failure}")
            check_metrics(training.variant, training.curves(), metrics)
        except BaseException:
            stop.set()  # here, before this thread takes the next one
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            futures = [pool.submit(train, training) for training in trainings]
            for future in tqdm(as_completed(futures), total=len(futures), unit="training", disable=None):
                future.result()
        finally:
            stop.set()


def _train(training: Training, environment: dict[str, str]) -> str:
    return _run_train_net([training.config_file, "--resume", *training.opts], environment)


def _run_train_net(words: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """The end of what went wrong, or nothing."""
    command = [sys.executable, TRAIN_NET, "--config-file", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr[-2000:] if done.returncode else ""


def evaluate_start(training: Training, args: argparse.Namespace) -> dict[str, float]:
    """Every metric of the weights that ``training`` starts from; evaluated once.

    Raises:
        SystemExit: the evaluation failed; its last words are shown.
        UserError: one of ``--metric`` is not among them.
    """
    from detectron2.evaluation.testing import flatten_results_dict

    file = args.output / START / "evaluation.json"
    if not file.exists():
        words = [training.config_file, "--eval-only", *training.opts, "OUTPUT_DIR", str(file.parent)]
        if failure := _run_train_net(words):
            raise SystemExit(f"The evaluation of MODEL.WEIGHTS failed:\n{failure}")
    results = flatten_results_dict(json.loads(file.read_text(encoding="utf-8")))
    start = {metric: value for metric, value in results.items() if value is not None}  # what was NaN
    check_metrics(START, start, args.metric)
    return start


def report(
    trainings: Sequence[Training], costs: dict[str, dict], args: argparse.Namespace, start: dict[str, float]
) -> None:
    """Print the table and write ``ablation.{md,json,png}``."""
    from tabulate import tabulate

    from fpt_d2.visualization import Run, plot_comparison

    records = [{"variant": START, "metrics": {m: [start[m]] for m in args.metric}}] if start else []
    runs = []
    for variant, cost in costs.items():
        curves = [t.curves() for t in trainings if t.variant == variant]
        runs.append(Run(variant, cost["gflops"], {m: [c[m] for c in curves] for m in args.metric}))
        finals = {m: [curve[-1][1] for curve in runs[-1].curves[m]] for m in args.metric}
        times = [c["time"][-1][1] for c in curves if "time" in c]  # not in one of a few iterations
        seconds = statistics.median(times) if times else None
        records.append({"variant": variant, "metrics": finals, "seconds_per_iteration": seconds, **cost})
    others = ("params_m", "gflops", "seconds_per_iteration")
    rows = [[r["variant"], *map(_spread, r["metrics"].values()), *map(r.get, others)] for r in records]
    headers = ["", *args.metric, "params (M)", "GFLOPs", "s / iteration"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".3g")
    folder = make_folder(args.output)
    (folder / "ablation.md").write_text(table + "\n", encoding="utf-8")
    (folder / "ablation.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    plot_comparison(runs, folder / "ablation.png", start)
    print(f"{table}\n\nWrote ablation.md, ablation.json and ablation.png into {folder}")


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    sys.exit(main())
