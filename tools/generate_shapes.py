#!/usr/bin/env python
"""Write a synthetic data set to where it is registered.

python tools/generate_shapes.py                   # fpt_shapes_{train,val}: detection, in COCO's format
python tools/generate_shapes.py --task semantic   # fpt_context_sem_seg_{train,val}: images and label images
"""

import argparse
import sys
from typing import Any

from fpt_d2.data.datasets.bundled import CONTEXT_ROOT, SHAPES_ROOT
from fpt_d2.data.synthetic.write_context import write_context
from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.engine.command import exit_on_user_errors

# What the options default to, by task.
DEFAULTS = {
    "detection": {"output": SHAPES_ROOT, "num_train": 600, "num_val": 200, "min_size": 96, "max_size": 160},
    "semantic": {"output": CONTEXT_ROOT, "num_train": 1000, "num_val": 100},
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=DEFAULTS, default="detection", help="default: detection")
    add_by_task(parser, "--output", help="folder of the data set")
    add_by_task(parser, "--num-train", type=int, help="number of training images")
    add_by_task(parser, "--num-val", type=int, help="number of validation images")
    add_by_task(parser, "--min-size", type=int, help="smallest short side of an image, in pixels")
    add_by_task(parser, "--max-size", type=int, help="largest short side of an image, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that is there")
    args = parser.parse_args()
    defaults = DEFAULTS[args.task]
    for name in DEFAULTS["detection"]:
        if name not in defaults and getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} is not for --task {args.task}: leave it out")
        if getattr(args, name) is None:
            setattr(args, name, defaults.get(name))
    return args


def add_by_task(parser: argparse.ArgumentParser, flag: str, *, help: str, **kwargs: Any) -> None:
    """Add an option with a default of its own for every task that it is for."""
    name = flag.removeprefix("--").replace("-", "_")
    defaults = ", ".join(f"{values[name]} ({task})" for task, values in DEFAULTS.items() if name in values)
    parser.add_argument(flag, help=f"{help}; default: {defaults}", **kwargs)


@exit_on_user_errors()
def main() -> int:
    args = parse_args()
    common = {"num_train": args.num_train, "num_val": args.num_val, "seed": args.seed, "overwrite": args.overwrite}
    if args.task == "semantic":
        write_context(args.output, **common)
    else:
        write_shapes(args.output, image_size=(args.min_size, args.max_size), **common)
    print(f"Wrote {args.num_train} training and {args.num_val} validation images to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
