#!/usr/bin/env python
"""Train variants of a config with several seeds, and lay their results side by side as a table and a picture.

A variant has a name and, as far as they differ, a config file and keys. Trainings that are finished are not repeated,
and those that were stopped go on: the same command can be given again, with more variants or seeds.

Examples:
    python tools/ablate.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml --seeds 1 2 3 \\
        --variant FPT --variant FPN MODEL.FPT.BRANCHES "[]" --metric bbox/AP50 segm/AP50 --output output/fpn_or_fpt
    python tools/ablate.py --variant UFP ufp.yaml --variant FPT ufp_fpt.yaml --metric sem_seg/mIoU --output output/ufp
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple, Optional

from analyze_model import measure
from detectron2.config import CfgNode
from detectron2.evaluation.testing import flatten_results_dict
from tabulate import tabulate
from tqdm import tqdm

from fpt_d2.engine import read_config
from fpt_d2.visualization import Run, plot_comparison, read_metrics

TRAIN_NET = Path(__file__).resolve().parents[1] / "train_net.py"
START = "start"  # its row and folder


class Training(NamedTuple):
    """One variant with one seed."""

    variant: str
    seed: int
    config_file: str
    opts: list[str]
    folder: Path

    def config(self) -> CfgNode:
        return read_config(self.config_file, self.opts)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        file = self.folder / "metrics.json"
        return read_metrics(file) if file.exists() else {}

    def claim_folder(self) -> None:
        """Note the settings in the folder.

        Raises:
            ValueError: it holds a training with others, which would pass for this one.
        """
        note, settings = self.folder / "variant.json", [self.config_file, self.opts]
        if note.exists() and json.loads(note.read_text(encoding="utf-8")) != settings:
            raise ValueError(f"{self.folder} was trained with other settings: choose another --output, or remove it")
        self.folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(settings), encoding="utf-8")

    def is_finished(self, metric: str) -> bool:
        curve = self.curves().get(metric)
        return bool(curve) and curve[-1][0] >= self.config().SOLVER.MAX_ITER - 1


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", help="of the variants that name none")
    parser.add_argument(
        "--variant", nargs="+", action="append", required=True, metavar=("NAME", "FILE KEY VALUE"), help="once for each"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], metavar="SEED", help="default 1")
    parser.add_argument(
        "--with-start", action="store_true", help="evaluate the MODEL.WEIGHTS that the first variant starts from, too"
    )
    parser.add_argument("--metric", nargs="+", default=["bbox/AP"], help="of an evaluation (default bbox/AP)")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="trainings at once, one thread each if several"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder for each training, and the results"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="config keys of all; comes last"
    )
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = get_parser()
    args = parser.parse_args(argv)
    try:
        trainings = plan(args)
        # Before anything is trained: a wrong key shows here.
        unfinished = [t for t in trainings if not t.is_finished(args.metric[0])]
        costs = {t.variant: _cost(t) for t in trainings}
        for training in trainings:
            training.claim_folder()
    except (OSError, ValueError, KeyError, AssertionError) as error:
        parser.error(str(error))
    print(f"{len(trainings)} trainings, {len(trainings) - len(unfinished)} of them finished before")
    start = evaluate_start(trainings[0], args.output) if args.with_start else {}
    train_all(unfinished, args.jobs)
    return report(trainings, costs, args.metric, args.output, start)


def plan(args: argparse.Namespace) -> list[Training]:
    """All trainings, seed by seed.

    Raises:
        ValueError: variants that are named alike or lack a config file.
    """
    names = [name for name, *_ in args.variant] + [START] * args.with_start
    if len(set(map(_folder, names))) < len(names):
        raise ValueError(f"--variant: the names {', '.join(names)} must differ")
    trainings = []
    for seed in args.seeds:
        for name, *keys in args.variant:
            has_file = bool(keys) and keys[0].endswith((".yaml", ".yml"))
            config_file = keys[0] if has_file else args.config_file
            if config_file is None:
                raise ValueError(f"--variant {name} names no config file: add one to it, or --config-file")
            folder = args.output / _folder(name) / f"seed_{seed}"
            own = ["OUTPUT_DIR", str(folder), "SEED", str(seed), "TEST.EXPECTED_RESULTS", "[]"]
            opts = [*args.opts, *keys[has_file:], *own]
            trainings.append(Training(name, seed, config_file, opts, folder))
    return trainings


def train_all(trainings: Sequence[Training], jobs: int) -> None:
    """Train by ``train_net.py``; what it prints is in each folder's ``log.txt``.

    Raises:
        SystemExit: one failed; its last words are shown.
    """
    environment = os.environ | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(trainings), unit="training", disable=None) as bar:
        futures = {pool.submit(_train, training, environment): training for training in trainings}
        for future in as_completed(futures):
            training, failure = futures[future], future.result()
            if failure:
                pool.shutdown(wait=False, cancel_futures=True)
                raise SystemExit(f"{training.variant}, seed {training.seed} failed:\n{failure}")
            bar.set_postfix_str(f"{training.variant}, seed {training.seed} done")
            bar.update()


def _train(training: Training, environment: dict[str, str]) -> str:
    """The end of what went wrong, or nothing."""
    command = [sys.executable, TRAIN_NET, "--config-file", training.config_file, "--resume", *training.opts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.stderr[-2000:] if done.returncode else ""


def evaluate_start(training: Training, folder: Path) -> dict[str, float]:
    """Every metric of the weights that ``training`` starts from; evaluated once.

    Raises:
        SystemExit: the evaluation failed; its last words are shown.
    """
    file = folder / START / "evaluation.json"
    if not file.exists():
        command = [sys.executable, TRAIN_NET, "--config-file", training.config_file, "--eval-only", *training.opts]
        done = subprocess.run([*command, "OUTPUT_DIR", str(file.parent)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"The evaluation of MODEL.WEIGHTS failed:\n{done.stderr[-2000:]}")
    return flatten_results_dict(json.loads(file.read_text(encoding="utf-8")))


def report(
    trainings: Sequence[Training], costs: dict[str, dict], metrics: Sequence[str], folder: Path, start: dict[str, float]
) -> int:
    """Print the table and write ``ablation.{md,json,png}``."""
    runs, rows, records = [], [], []
    for variant, cost in costs.items():
        curves = [t.curves() for t in trainings if t.variant == variant]
        finals = {m: [c[m][-1][1] for c in curves if m in c] for m in metrics}
        missing = [m for m, values in finals.items() if not values]
        if missing:
            known = ", ".join(sorted(key for key in curves[0] if "/" in key))
            raise SystemExit(f"ablate.py: {variant} has no metric {', '.join(missing)}; it has {known}")
        seconds = statistics.median(c["time"][-1][1] for c in curves)
        runs.append(Run(variant, cost["gflops"], {m: [c[m] for c in curves] for m in metrics}))
        rows.append([variant, *(_spread(finals[m]) for m in metrics), cost["params_m"], cost["gflops"], seconds])
        records.append({"variant": variant, "metrics": finals, "seconds_per_iteration": seconds, **cost})
    if start:
        rows.insert(0, [START, *(f"{start[m]:.1f}" for m in metrics)])
        records.insert(0, {"variant": START, "metrics": {m: [start[m]] for m in metrics}})
    headers = ["", *metrics, "params (M)", "GFLOPs", "s / iteration"]
    table = tabulate(rows, headers, tablefmt="github", floatfmt=".3g")
    (folder / "ablation.md").write_text(table + "\n", encoding="utf-8")
    (folder / "ablation.json").write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    plot_comparison(runs, folder / "ablation.png", start)
    print(f"{table}\n\nWrote ablation.md, ablation.json and ablation.png into {folder}")
    return 0


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def _cost(training: Training) -> dict[str, float]:
    """Of one image as large as the config's tests have it."""
    cfg = training.config()
    size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    cost = measure(training.variant, cfg, *size)
    return {"params_m": cost.parameters / 1e6, "gflops": cost.total / 1e9, "image": size}


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-+." else "_" for c in name)


if __name__ == "__main__":
    sys.exit(main())
