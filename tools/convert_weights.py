#!/usr/bin/env python
"""Give the ImageNet weights of a torchvision or timm ResNet or ResNeXt the names that Detectron2 has for them.

Example:
    python tools/convert_weights.py resnet50-11ad3fa6.pth R-50.pkl
    python train_net.py --config-file ... MODEL.WEIGHTS R-50.pkl ...

MODEL.WEIGHTS takes torchvision's and timm's files as they are, too; Detectron2 itself needs the converted ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fpt_d2.commands.common import rewrite_weights, tool_parser


def convert(weights: dict[str, Any], output: str) -> tuple[dict[str, Any], str]:
    from fpt_d2.checkpoint import convert_resnet
    from fpt_d2.checkpoint.names import resnet_kind
    from fpt_d2.checkpoint.origin import expected_input

    checkpoint = convert_resnet(weights)
    settings, _ = expected_input(output, checkpoint["__author__"])
    wanted = " ".join(f"{key} '{value}'" for key, value in settings.items())
    return checkpoint, f"a {resnet_kind(checkpoint['model'])} to {output}. It wants {wanted}"


def main(argv: Sequence[str] | None = None) -> int:
    return rewrite_weights(tool_parser(__doc__), argv, convert)


if __name__ == "__main__":
    sys.exit(main())
