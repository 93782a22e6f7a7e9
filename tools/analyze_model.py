#!/usr/bin/env python
"""Parameters and GFLOPs of models side by side, as a Markdown table.

Nothing is computed: the model runs on tensors that have shapes and no values, on an image of random noise of --size
padded as Detectron2 pads it, and torch counts the multiply-adds (one each, as Detectron2's analysis does) of every
convolution and matrix product, those inside attention included. Measured are the backbone, the RPN's head on all
levels, and the RoI heads on as many proposals and detections as the config allows; box pooling and NMS are left out.

MODEL.DEVICE, of a lazy config train.device, says for which device: attention takes another form on the CPU, with fewer
products, than on a GPU.

Examples:
    python tools/analyze_model.py --json costs.json --png costs.png     # Faster R-CNN R50 with FPN, BFP and FPT
    python tools/analyze_model.py --config-file A.yaml B.yaml --opts MODEL.FPT.MAX_KV_TOKENS 1024
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpt_d2.cli import add_opts, exit_on_user_errors, image_size, picture_path
from fpt_d2.commands.common import make_folder, tool_parser, users_files

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from omegaconf import DictConfig

    from fpt_d2.commands.model_costs import Cost

BASE = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"
PAPER = ("MODEL.FPT.FUSE", "concat", "MODEL.FPT.MIN_STRIDE", 0)
# Row of the default table -> the keys in which it differs from BASE, and their values.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "FPN": ("MODEL.FPT.BRANCHES", []),
    "BFP": ("MODEL.FPT.BRANCHES", [], "MODEL.FPT.PYRAMID", "bfp"),
    "BiFPN, 3 layers": ("MODEL.BACKBONE.NAME", "build_resnet_bifpn_backbone"),
    "FPT: ST": ("MODEL.FPT.BRANCHES", ["st"]),
    "FPT: GT": ("MODEL.FPT.BRANCHES", ["gt"]),
    "FPT: RT": ("MODEL.FPT.BRANCHES", ["rt"]),
    "FPT: ST + GT": ("MODEL.FPT.BRANCHES", ["st", "gt"]),
    "FPT: ST + RT": ("MODEL.FPT.BRANCHES", ["st", "rt"]),
    "FPT: GT + RT": ("MODEL.FPT.BRANCHES", ["gt", "rt"]),
    "FPT: ST + GT + RT": (),
    "FPT over BFP": ("MODEL.FPT.PYRAMID", "bfp"),
    "FPT, 64 channels": ("MODEL.FPT.BRANCH_CHANNELS", 64),
    "FPT light": (
        *("MODEL.FPT.BRANCH_CHANNELS", 64, "MODEL.FPT.MAX_KV_TOKENS", 256),
        *("MODEL.FPT.QK_NORM", True, "MODEL.FPT.RT_GATE", "normalized"),
    ),
    "FPT, the paper's fusion": PAPER,
    "FPT, the paper's fusion, exact": (*PAPER, "MODEL.FPT.MAX_KV_TOKENS", 0),
}
# Of a model's cost, in the order of Cost's fields.
PARTS = ("Trunk", "Pyramid", "ST", "GT", "RT", "Heads")


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    size_help = "size of the image (default %(default)s)"
    parser.add_argument("--config-file", nargs="+", metavar="FILE", help="the models (default: see the examples)")
    parser.add_argument("--size", type=image_size, default="800x1333", metavar="HxW", help=size_help)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--png", type=picture_path, metavar="FILE", help="write a bar chart here too")
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from tqdm import tqdm

    from fpt_d2.commands.model_costs import device_of, measure

    models = read_configs(args.config_file, args.opts)
    for path in filter(None, (args.json, args.png)):
        make_folder(path.parent)
    costs = [measure(name, cfg, *args.size) for name, cfg in tqdm(models.items(), unit="model", disable=None)]
    device = device_of(next(iter(models.values())))
    title = f"GFLOPs (multiply-adds) of one {args.size[0]} x {args.size[1]} image, attention as on {device}"
    print(f"{title}\n\n{to_markdown(costs)}")
    with users_files():
        if args.json:
            rows = [{**cost._asdict(), "total": cost.total} for cost in costs]
            args.json.write_text(json.dumps({"size": args.size, "device": device, "models": rows}, indent=2) + "\n")
        if args.png:
            plot(costs, title, args.png)
    return 0


def read_configs(files: Sequence[str] | None, opts: Sequence[str]) -> dict[str, CfgNode | DictConfig]:
    """The configs by the names of their rows; without files those of the default table."""
    from fpt_d2.config_file import read_config
    from fpt_d2.engine.lazy import read_lazy_config
    from fpt_d2.model_zoo import get_config_file

    if files:
        readers = [read_lazy_config if file.endswith(".py") else read_config for file in files]
        return {name: read(file, opts) for name, read, file in zip(_names(files), readers, files)}
    return {name: read_config(get_config_file(BASE), [*opts, *keys]) for name, keys in VARIANTS.items()}


def _names(files: Sequence[str]) -> list[str]:
    """As much of the paths as tells the files apart."""
    folder = os.path.commonpath([Path(file).resolve().parent for file in files])
    paths = [Path(file).resolve().relative_to(folder) for file in files]
    stems = [str(path.with_suffix("")) for path in paths]
    return stems if len(set(stems)) == len(stems) else list(map(str, paths))


def to_markdown(costs: Sequence[Cost]) -> str:
    """A table with one row for each model, in millions of parameters and GFLOPs."""
    from tabulate import tabulate

    columns = ["Model", "Params (M)", *PARTS, "Total GFLOPs"]
    rows = [[c.name, c.parameters / 1e6, *(macs / 1e9 for macs in (*c[2:], c.total))] for c in costs]
    return tabulate(rows, columns, tablefmt="github", floatfmt=".1f")


def plot(costs: Sequence[Cost], title: str, path: Path) -> None:
    """One bar for each model, made of its parts."""
    from matplotlib.figure import Figure

    from fpt_d2.visualization.curves import COLORS

    figure = Figure(figsize=(9, 1.4 + 0.42 * len(costs)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    ends = [0.0] * len(costs)
    for index, (part, color) in enumerate(zip(PARTS, COLORS), start=2):
        widths = [cost[index] / 1e9 for cost in costs]
        bars = axes.barh([cost.name for cost in costs], widths, left=ends, color=color, label=part)
        ends = [end + width for end, width in zip(ends, widths)]
    axes.bar_label(bars, [f"{end:,.0f}" for end in ends], padding=4, fontsize=11)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    figure.suptitle(title, fontsize=13, fontweight="bold", x=0.02, ha="left")
    axes.set_xlabel("GFLOPs")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=len(PARTS))
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
