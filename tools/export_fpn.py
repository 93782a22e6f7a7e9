#!/usr/bin/env python
"""Write the FPN part of an FPT checkpoint as a checkpoint of Detectron2's FPN model: all but what FPT adds.

It is the model that FPT would be without its branches. Detectron2's configs with FPN load it whole.

Example:
    python tools/export_fpn.py output/model_final.pth fpn.pth
"""

import argparse
import logging
from collections.abc import Sequence
from typing import Optional

from detectron2.utils.logger import setup_logger

from fpt_d2.checkpoint import fpn_part
from fpt_d2.checkpoint.files import read_state_dict, write_checkpoint
from fpt_d2.engine.command import exit_on_user_errors

logger = logging.getLogger("fpt_d2.tools")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a checkpoint of a model with FPT")
    parser.add_argument("output", help="the file to write: .pkl or .pth")
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> None:
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    weights = read_state_dict(args.input)
    kept = fpn_part(weights)
    write_checkpoint({"model": kept, "__author__": "fpt_d2"}, args.output)
    logger.info("Wrote %d of the %d tensors to %s", len(kept), len(weights), args.output)


if __name__ == "__main__":
    main()
