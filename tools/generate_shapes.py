#!/usr/bin/env python
"""Write a synthetic data set to where it is registered.

python tools/generate_shapes.py                   # fpt_shapes_{train,val}: detection, in COCO's format
python tools/generate_shapes.py --task semantic   # fpt_context_sem_seg_{train,val}: images and label images
"""

from __future__ import annotations

import argparse
import sys

from fpt_d2.cli import exit_on_user_errors
from fpt_d2.errors import UserError

SEMANTIC = {"num_train": 1000, "num_val": 100}
DETECTION = {"num_train": 600, "num_val": 200, "min_size": 96, "max_size": 160}


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("detection", "semantic"), default="detection", help="default: detection")
    parser.add_argument("--output", help="folder of the data set; default: where it is registered")
    parser.add_argument("--num-train", type=int, help="number of training images; default: 600, semantic 1000")
    parser.add_argument("--num-val", type=int, help="number of validation images; default: 200, semantic 100")
    parser.add_argument("--min-size", type=int, help="smallest short side of an image (detection); default: 96")
    parser.add_argument("--max-size", type=int, help="largest short side of an image (detection); default: 160")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that is there")
    return parser


@exit_on_user_errors()
def main() -> int:
    parser = get_parser()
    args = parser.parse_args()
    is_semantic = args.task == "semantic"
    for option, value in (("--min-size", args.min_size), ("--max-size", args.max_size)):
        if is_semantic and value is not None:
            parser.error(f"{option} is not for --task semantic: leave it out")
    given = {name: value for name in DETECTION if (value := getattr(args, name)) is not None}
    sizes = (SEMANTIC if is_semantic else DETECTION) | given
    from fpt_d2.data.datasets.bundled import CONTEXT_ROOT, SHAPES_ROOT
    from fpt_d2.data.synthetic.write_context import write_context
    from fpt_d2.data.synthetic.write_shapes import write_shapes

    folder = args.output or (CONTEXT_ROOT if is_semantic else SHAPES_ROOT)
    if not is_semantic:
        sizes["image_size"] = sizes.pop("min_size"), sizes.pop("max_size")
    try:
        (write_context if is_semantic else write_shapes)(folder, seed=args.seed, overwrite=args.overwrite, **sizes)
    except OSError as error:
        raise UserError(str(error)) from error
    print(f"Wrote {sizes['num_train']} training and {sizes['num_val']} validation images to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
