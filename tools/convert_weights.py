#!/usr/bin/env python
"""Give the ImageNet weights of a torchvision or timm ResNet or ResNeXt the names that Detectron2 has for them.

Example:
    python tools/convert_weights.py resnet50-11ad3fa6.pth R-50.pkl
    python train_net.py --config-file ... MODEL.WEIGHTS R-50.pkl ...

MODEL.WEIGHTS takes torchvision's and timm's files as they are, too; Detectron2 itself needs the converted ones.
"""

import argparse
import logging
from collections.abc import Sequence
from typing import Optional

from detectron2.utils.logger import setup_logger

from fpt_d2.checkpoint import convert_resnet
from fpt_d2.checkpoint.files import read_state_dict, write_checkpoint
from fpt_d2.checkpoint.names import resnet_kind
from fpt_d2.checkpoint.origin import expected_input
from fpt_d2.engine.command import exit_on_user_errors

logger = logging.getLogger("fpt_d2.tools")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a state dict: .pth, or .safetensors where safetensors is installed")
    parser.add_argument("output", help="the file to write: .pkl or .pth")
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> None:
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    checkpoint = convert_resnet(read_state_dict(args.input))
    write_checkpoint(checkpoint, args.output)
    settings, _ = expected_input(args.output, checkpoint["__author__"])
    words = " ".join(f"{key} '{value}'" for key, value in settings.items())
    logger.info("Wrote a %s to %s. It wants %s", resnet_kind(checkpoint["model"]), args.output, words)


if __name__ == "__main__":
    main()
