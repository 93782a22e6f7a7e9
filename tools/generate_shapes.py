#!/usr/bin/env python
"""Write a synthetic data set to where it is registered.

python tools/generate_shapes.py                            # fpt_shapes_{train,val}: detection, in COCO's format
python tools/generate_shapes.py --task semantic            # fpt_context_sem_seg_{train,val}: images and label images
python tools/generate_shapes.py --task context-detection   # fpt_context_{presence,matching,relation}_{train,val}
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fpt_d2.cli import exit_on_user_errors
from fpt_d2.errors import UserError

SIZES: dict[str, dict[str, int]] = {
    "detection": {"num_train": 600, "num_val": 200, "min_size": 96, "max_size": 160},
    "semantic": {"num_train": 1000, "num_val": 100},
    "context-detection": {"num_train": 4000, "num_val": 200, "min_size": 96, "max_size": 128},
}
DIFFICULTIES = ("presence", "matching", "relation")  # classes.CONTEXT_DETECTION, for which torch would be imported


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=tuple(SIZES), default="detection", help="default: detection")
    parser.add_argument(
        "--difficulty", choices=DIFFICULTIES, help="of context-detection; default: all, a data set each"
    )
    parser.add_argument("--output", help="folder of the data set; default: where it is registered")
    parser.add_argument("--num-train", type=int, help=f"number of training images; default: {_default('num_train')}")
    parser.add_argument("--num-val", type=int, help=f"number of validation images; default: {_default('num_val')}")
    for name, word in (("min", "smallest"), ("max", "largest")):
        text = f"{word} short side of an image, in pixels; default: {_default(f'{name}_size')}"
        parser.add_argument(f"--{name}-size", type=int, help=text)
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that is there")
    return parser


def _default(name: str) -> str:
    return ", ".join(f"{task} {sizes[name]}" for task, sizes in SIZES.items() if name in sizes)


def get_sizes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> dict[str, Any]:
    """Numbers and sizes of images: what was given, and the task's defaults."""
    sizes: dict[str, Any] = dict(SIZES[args.task])
    for name in SIZES["detection"]:
        if (value := getattr(args, name)) is None:
            continue
        if name not in sizes:
            parser.error(f"--{name.replace('_', '-')} is not for --task {args.task}: leave it out")
        sizes[name] = value
    if "min_size" in sizes:
        sizes["image_size"] = sizes.pop("min_size"), sizes.pop("max_size")
    return sizes


def writers(args: argparse.Namespace) -> Iterator[tuple[str, Callable[..., None]]]:
    """Folder, and what writes into it, of every data set that was asked for."""
    from fpt_d2.data.datasets import bundled
    from fpt_d2.data.synthetic.write_context import write_context
    from fpt_d2.data.synthetic.write_context_detection import write_context_detection
    from fpt_d2.data.synthetic.write_shapes import write_shapes

    if args.task == "detection":
        yield args.output or bundled.SHAPES_ROOT, write_shapes
    elif args.task == "semantic":
        yield args.output or bundled.CONTEXT_ROOT, write_context
    else:
        for difficulty in [args.difficulty] if args.difficulty else DIFFICULTIES:
            folder = args.output or bundled.CONTEXT_DETECTION_ROOT.format(difficulty)
            yield folder, partial(write_context_detection, difficulty=difficulty)


@exit_on_user_errors()
def main() -> int:
    parser = get_parser()
    args = parser.parse_args()
    sizes = get_sizes(parser, args)
    if args.difficulty and args.task != "context-detection":
        parser.error(f"--difficulty is not for --task {args.task}: leave it out")
    if args.output and args.task == "context-detection" and not args.difficulty:
        parser.error("--output is the folder of one data set: say which with --difficulty")
    for folder, write in writers(args):
        try:
            write(folder, seed=args.seed, overwrite=args.overwrite, **sizes)
        except OSError as error:
            raise UserError(str(error)) from error
        print(f"Wrote {sizes['num_train']} training and {sizes['num_val']} validation images to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
