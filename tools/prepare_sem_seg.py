#!/usr/bin/env python
"""Prepare a data set for semantic segmentation that was downloaded, and check it.

Label images are converted where needed, beside the downloaded ones, of which none is changed; what an earlier run
wrote is kept. The folder is where the data set is registered, under $DETECTRON2_DATASETS (./datasets).

Examples:
    python tools/prepare_sem_seg.py cityscapes
    python tools/prepare_sem_seg.py voc --sbd downloads/benchmark_RELEASE/dataset
    python tools/prepare_sem_seg.py check ade20k_sem_seg_val
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fpt_d2.cli import exit_on_user_errors
from fpt_d2.commands.common import logger, tool_parser, users_files

# Command -> folder, splits and name of the data sets that are registered, and what is done.
DATASETS = {
    "cityscapes": ("cityscapes", "cityscapes_fine_sem_seg", ("train", "val"), "write train ids beside the label ids"),
    "ade20k": ("ADEChallengeData2016", "ade20k_sem_seg", ("train", "val"), "write labels less one, 255 for no class"),
    "voc": (
        "VOC2012",
        "voc_2012_sem_seg",
        ("train", "val", "trainaug"),
        "write masks as labels, trainaug with SBD",
    ),
    "lip": ("LIP", "lip_sem_seg", ("train", "val"), "link folders that were unpacked elsewhere in it"),
}


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (folder, _, _, what) in DATASETS.items():
        sub = commands.add_parser(name, help=f"in {folder}: {what}", description=f"In {folder}: {what}.")
        if name == "voc":
            sub.add_argument("--sbd", type=Path, metavar="FOLDER", help="dataset folder of Semantic Boundaries (SBD)")
    check = commands.add_parser("check", help="check every image and mask of registered data sets")
    check.add_argument("names", nargs="+", metavar="NAME", help="e.g. voc_2012_sem_seg_val")
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from detectron2.utils.logger import setup_logger

    setup_logger(name="fpt_d2")
    if args.command == "check":
        return _check(args.names)
    _prepare(args)
    _, prefix, splits, _ = DATASETS[args.command]
    return _check([name for split in splits if _is_listed(name := f"{prefix}_{split}")])


def _prepare(args: argparse.Namespace) -> None:
    from fpt_d2.data.datasets.prepare import prepare_ade20k, prepare_cityscapes, prepare_lip, prepare_voc
    from fpt_d2.data.datasets.sem_seg import DATASETS_ROOT

    folder = Path(DATASETS_ROOT) / DATASETS[args.command][0]
    with users_files():
        if args.command == "voc":
            prepare_voc(folder, sbd=args.sbd)
        else:
            {"cityscapes": prepare_cityscapes, "ade20k": prepare_ade20k, "lip": prepare_lip}[args.command](folder)


def _is_listed(name: str) -> bool:
    """Whether a data set that was prepared can be loaded: VOC's trainaug only with SBD."""
    from detectron2.data import DatasetCatalog

    try:
        return bool(DatasetCatalog.get(name))
    except FileNotFoundError:
        return False


def _check(names: Sequence[str]) -> int:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from fpt_d2.data.checks.sem_seg import check_sem_seg_files

    status = 0
    for name in names:
        if name not in DatasetCatalog or not MetadataCatalog.get(name).get("stuff_classes"):
            problems = [f"{name!r} is not a registered data set for semantic segmentation"]
        else:
            problems = check_sem_seg_files(name)
        for problem in problems:
            logger.error("%s", problem)
            status = 1
        if not problems:
            logger.info("%s: %d images and their masks are in order", name, len(DatasetCatalog.get(name)))
    return status


if __name__ == "__main__":
    sys.exit(main())
