#!/usr/bin/env python
"""Bring the tables of MODEL_ZOO.md up to date: a row for every config, with its costs counted and measured anew.

What stands in the columns "paper" and "trained here", and around the tables, is written by hand and stays.

Example:
    python tools/model_zoo_table.py                       # some minutes: parameters and GFLOPs, from shapes alone
    python tools/model_zoo_table.py --only                # new configs alone
    python tools/model_zoo_table.py --only paper          # these too
    python tools/model_zoo_table.py --measure-steps       # ten minutes: a training step, on the CPU in one thread
    python tools/model_zoo_table.py --measure-steps --only paper   # minutes each: what the line above leaves out
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fpt_d2.cli import exit_on_user_errors
from fpt_d2.commands.common import tool_parser

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from omegaconf import DictConfig

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "MODEL_ZOO.md"
# What cannot be built here, for lack of a package or of Detectron2's compiled operators, has its parameters from there.
PARAMETERS = ROOT / "tests" / "modeling" / "parameters.json"
COUNTED, MEASURED, BY_HAND = ("params (M)", "GFLOPs"), ("step (s)", "memory (GiB)"), ("trained here", "paper")
COLUMNS = (*COUNTED, *MEASURED, *BY_HAND)
# What a step is measured on: height and width of an image, and how many. Two, for batch norms over pooled maps.
STEP_SIZE, STEP_IMAGES = (128, 192), 2
UNKNOWN = "–"
# Configs a step of which takes minutes on a CPU, in their RoI heads above all.
SLOW = ("_paper.yaml", "_authors.yaml")
TABLE, LINK = re.compile(r"\| config .*\n(\|.*\n)*"), re.compile(r"\]\(configs/(.+?)\)")

Row = dict[str, str]  # by column


def config_files() -> list[list[str]]:
    """The files of each model in ``configs/``: YAML first, where there is a lazy config of the same name too."""
    root = ROOT / "configs"
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/*"), key=lambda path: (path.parent, path.stem, path.suffix != ".yaml")):
        if path.suffix in (".yaml", ".py") and path.parent.name != "common" and not path.stem.startswith("Base-"):
            file = path.relative_to(root).as_posix()
            found.setdefault(file.rsplit(".", 1)[0], []).append(file)
    return list(found.values())


def read_rows(page: str) -> dict[str, Row]:
    """The cells of each row by column, by the row's first file; columns that its table leaves out are empty."""
    rows = {}
    for table in TABLE.finditer(page):
        (_, *columns), _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines())
        for name, *cells in lines:
            rows[LINK.search(name)[1]] = dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells))
    return rows


def write_rows(page: str, rows: Mapping[str, Row]) -> str:
    """The page with these rows, each in the table of its folder, without the columns that are empty there."""

    def table(match: re.Match[str]) -> str:
        folder = LINK.search(match[0])[1].partition("/")[0]
        own = [files for files in config_files() if files[0].startswith(f"{folder}/")]
        columns = [c for c in COLUMNS if c not in BY_HAND or any(rows[files[0]][c] for files in own)]
        lines = [["config", *columns], ["---", *["---"] * len(columns)]]
        lines += [[_name(files), *(rows[files[0]][column] for column in columns)] for files in own]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    return TABLE.sub(table, page)


def _name(files: Sequence[str]) -> str:
    """The config's name, which links to its first file, and a link to the second."""
    second = "".join(f" [{Path(file).suffix[1:]}](configs/{file})" for file in files[1:])
    return f"[{Path(files[0]).stem}](configs/{files[0]}){second}"


def count(file: str) -> Row:
    """Parameters and GFLOPs of a config, as they stand in the table."""
    from omegaconf import DictConfig

    from fpt_d2 import model_zoo
    from fpt_d2.commands import model_costs

    cfg = model_zoo.get_config(file)
    if isinstance(cfg, DictConfig):
        cfg.train.device = "cpu"
    else:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TRUNK.PRETRAINED", False])
    try:
        cost = model_costs.measure(file, cfg, *image_size(cfg))
        parameters, gflops = cost.parameters, f"{cost.total / 1e9:.1f}"
    except model_costs.UncountableError as error:
        print(f"{file}: {error}", file=sys.stderr)
        parameters, gflops = json.loads(PARAMETERS.read_text())[file]["total"], UNKNOWN
    return dict(zip(COUNTED, (f"{parameters / 1e6:.1f}", gflops)))


def measure_step(file: str) -> Row:
    """Seconds and memory of a training step, in a process of its own; the faster of two steps."""
    from benchmarks.measure import start_runner
    from benchmarks.workload import TRAIN, Setting
    from benchmarks.zoo import entry

    runner = start_runner(entry(file), Setting(*STEP_SIZE, batch=STEP_IMAGES), threads=1)
    try:
        watched, second = runner.step(TRAIN, watched=True), runner.step(TRAIN)
    except RuntimeError as error:  # an operator or a package is missing here; the process has said which
        print(f"{file}: {error}", file=sys.stderr)
        return dict.fromkeys(MEASURED, UNKNOWN)
    finally:
        runner.close()
    seconds, peak = min(watched.seconds, second.seconds), watched.peak_bytes
    return dict(zip(MEASURED, (f"{seconds:.2f}", f"{peak / 2**30:.2f}" if peak is not None else UNKNOWN)))


def image_size(cfg: CfgNode | DictConfig) -> tuple[int, int]:
    """Of what the model is tested on; for semantic segmentation the crop that it is trained on."""
    from omegaconf import DictConfig

    from fpt_d2.config import SEMANTIC_SEGMENTATION

    if isinstance(cfg, DictConfig):
        resize = cfg.dataloader.test.mapper.augmentations[0]
        return resize.short_edge_length, resize.max_size
    inputs = cfg.INPUT
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION and inputs.CROP.TYPE.startswith("absolute"):
        return tuple(inputs.CROP.SIZE)
    return inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    only_help = "measure new configs and those with one of these in their name"
    parser.add_argument("--only", nargs="*", metavar="TEXT", help=only_help)
    steps_help = "measure training steps, and leave the counts as they are"
    parser.add_argument("--measure-steps", action="store_true", help=steps_help)
    args = parser.parse_args(argv)
    from tqdm import tqdm

    page = PAGE.read_text(encoding="utf-8")
    rows, steps = read_rows(page), {}
    for file, *_ in tqdm(config_files(), unit="config", disable=None):
        if args.only is not None and file in rows and not any(text in file for text in args.only):
            continue
        row = rows.setdefault(file, dict.fromkeys(COLUMNS, ""))
        if not (args.measure_steps and row["params (M)"]):
            row |= count(file)
        if args.measure_steps and args.only is None and file.endswith(SLOW):
            row |= {column: row[column] or UNKNOWN for column in MEASURED}
        elif args.measure_steps:
            model = _model_keys(file)
            steps[model] = steps.get(model) or measure_step(file)
            row |= steps[model]
    PAGE.write_text(write_rows(page, rows), encoding="utf-8")
    return 0


def _model_keys(file: str) -> str:
    """What two configs with the same model have in common; 1x and 3x, say, differ in the schedule alone."""
    from fpt_d2 import model_zoo

    if not file.endswith(".yaml"):
        return file
    model = model_zoo.get_config(file).MODEL.clone()
    model.defrost()
    model.WEIGHTS = ""
    return model.dump()


if __name__ == "__main__":
    sys.exit(main())
