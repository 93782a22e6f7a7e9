#!/usr/bin/env python
"""Write the synthetic data set of shapes, in COCO's format, to where `fpt_shapes_{train,val}` are registered."""

import argparse
import sys

from fpt_d2.data.builtin import SHAPES_ROOT
from fpt_d2.data.synthetic import write_dataset


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", default=SHAPES_ROOT, help="folder of the data set")
    parser.add_argument("--num-train", type=int, default=600, help="number of training images")
    parser.add_argument("--num-val", type=int, default=200, help="number of validation images")
    parser.add_argument("--min-size", type=int, default=96, help="smallest short side of an image, in pixels")
    parser.add_argument("--max-size", type=int, default=160, help="largest short side of an image, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set that is there")
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        write_dataset(
            args.output,
            num_train=args.num_train,
            num_val=args.num_val,
            image_size=(args.min_size, args.max_size),
            seed=args.seed,
            overwrite=args.overwrite,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Wrote {args.num_train} training and {args.num_val} validation images to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
