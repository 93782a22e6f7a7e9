#!/usr/bin/env python
"""Prepare a data set for semantic segmentation that was downloaded, and check it.

Label images are converted where needed, beside the downloaded ones, of which none is changed; what an earlier run
wrote is kept. The folder is where the data set is registered, under $DETECTRON2_DATASETS (./datasets).

Examples:
    python tools/prepare_sem_seg.py cityscapes
    python tools/prepare_sem_seg.py voc --sbd downloads/benchmark_RELEASE/dataset
    python tools/prepare_sem_seg.py check ade20k_sem_seg_val
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger

from fpt_d2.data.checks.sem_seg import check_sem_seg_files
from fpt_d2.data.datasets.prepare import prepare_ade20k, prepare_cityscapes, prepare_lip, prepare_voc
from fpt_d2.data.datasets.sem_seg import DATASETS_ROOT
from fpt_d2.engine.command import exit_on_user_errors

logger = logging.getLogger("fpt_d2.tools")

# Folder, what prepares it, and the names that are then registered.
DATASETS = {
    "cityscapes": ("cityscapes", prepare_cityscapes, ["cityscapes_fine_sem_seg_train", "cityscapes_fine_sem_seg_val"]),
    "ade20k": ("ADEChallengeData2016", prepare_ade20k, ["ade20k_sem_seg_train", "ade20k_sem_seg_val"]),
    "voc": ("VOC2012", prepare_voc, [f"voc_2012_sem_seg_{split}" for split in ("train", "val", "trainaug")]),
    "lip": ("LIP", prepare_lip, ["lip_sem_seg_train", "lip_sem_seg_val"]),
}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (folder, prepare, _) in DATASETS.items():
        what = prepare.__doc__.splitlines()[0]
        sub = commands.add_parser(command, help=f"prepare {DATASETS_ROOT / folder}", description=what)
        if command == "voc":
            sub.add_argument(
                "--sbd", type=Path, metavar="FOLDER", help="dataset folder of the Semantic Boundaries Dataset"
            )
    check = commands.add_parser("check", help="check every image and mask of registered data sets")
    check.add_argument("names", nargs="+", metavar="NAME", help="e.g. voc_2012_sem_seg_val")
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    if args.command == "check":
        return _check(args.names)
    folder, prepare, names = DATASETS[args.command]
    options = {"sbd": args.sbd} if args.command == "voc" else {}
    prepare(DATASETS_ROOT / folder, **options)
    return _check([name for name in names if _is_listed(name)])


def _is_listed(name: str) -> bool:
    """Whether a data set that was prepared can be loaded: VOC's trainaug only with SBD."""
    try:
        return bool(DatasetCatalog.get(name))
    except FileNotFoundError:
        return False


def _check(names: Sequence[str]) -> int:
    status = 0
    for name in names:
        if name not in DatasetCatalog or not MetadataCatalog.get(name).get("stuff_classes"):
            problems = [f"{name!r} is no registered data set for semantic segmentation"]
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
