#!/usr/bin/env python
"""Bring the tables of MODEL_ZOO.md up to date: a row for every config, with parameters and GFLOPs counted anew.

What stands in the columns "paper" and "here", and around the tables, is written by hand and stays.

Example:
    python tools/model_zoo_table.py                # some minutes; nothing is computed but shapes
    python tools/model_zoo_table.py --only         # new configs alone
    python tools/model_zoo_table.py --only paper   # these too
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
HEADERS = ["config", "image", "params (M)", "GFLOPs", "paper", "here"]
NEW = ["", "", "", "", "not trained here"]
TABLE, LINK = re.compile(r"\| config .*\n(\|.*\n)*"), re.compile(r"\]\(configs/(.+?)\)")


def config_files() -> list[list[str]]:
    """The files of each model in ``configs/``: YAML first, where there is a lazy config of the same name too."""
    root = ROOT / "configs"
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/*"), key=lambda path: (path.parent, path.stem, path.suffix != ".yaml")):
        if path.suffix in (".yaml", ".py") and path.parent.name != "common" and not path.stem.startswith("Base-"):
            file = path.relative_to(root).as_posix()
            found.setdefault(file.rsplit(".", 1)[0], []).append(file)
    return list(found.values())


def read_rows(page: str) -> dict[str, list[str]]:
    """The cells behind the first one, by the first file of each row."""
    lines = [line for table in TABLE.finditer(page) for line in table[0].splitlines()[2:]]
    return {LINK.search(line)[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}


def write_rows(page: str, rows: Mapping[str, Sequence[str]]) -> str:
    """The page with these cells behind the first one, each in the table of its folder."""
    from tabulate import tabulate

    def table(match: re.Match[str]) -> str:
        folder = LINK.search(match[0])[1].partition("/")[0]
        own = [[_name(files), *rows[files[0]]] for files in config_files() if files[0].startswith(f"{folder}/")]
        return tabulate(own, HEADERS, tablefmt="github", disable_numparse=True) + "\n"

    return TABLE.sub(table, page)


def _name(files: Sequence[str]) -> str:
    return " ".join((f"`{Path(files[0]).stem}`", *(f"[{Path(file).suffix[1:]}](configs/{file})" for file in files)))


def measure(file: str) -> list[str]:
    """The image's size, parameters and GFLOPs of a config, as they stand in the table."""
    from omegaconf import DictConfig

    from fpt_d2 import model_zoo
    from fpt_d2.commands import model_costs

    cfg = model_zoo.get_config(file)
    if isinstance(cfg, DictConfig):
        cfg.train.device = "cpu"
    else:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TRUNK.PRETRAINED", False])
    size = image_size(cfg)
    try:
        cost = model_costs.measure(file, cfg, *size)
        parameters, gflops = cost.parameters, f"{cost.total / 1e9:.1f}"
    except model_costs.UncountableError as error:
        print(f"{file}: {error}", file=sys.stderr)
        parameters, gflops = json.loads(PARAMETERS.read_text())[file]["total"], "–"
    return [f"{size[0]} × {size[1]}", f"{parameters / 1e6:.1f}", gflops]


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
    args = parser.parse_args(argv)
    from tqdm import tqdm

    page = PAGE.read_text(encoding="utf-8")
    rows = read_rows(page)
    for file, *_ in tqdm(config_files(), unit="config", disable=None):
        if args.only is None or file not in rows or any(text in file for text in args.only):
            rows[file] = [*measure(file), *rows.get(file, NEW)[3:]]
    PAGE.write_text(write_rows(page, rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
