#!/usr/bin/env python
"""Write the FPN part of an FPT checkpoint as a checkpoint of Detectron2's FPN model: all but what FPT adds.

It is the model that FPT would be without its branches. Detectron2's configs with FPN load it whole.

Example:
    python tools/export_fpn.py output/model_final.pth fpn.pth
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fpt_d2.commands.common import rewrite_weights, tool_parser


def keep_fpn(weights: dict[str, Any], output: str) -> tuple[dict[str, Any], str]:
    from fpt_d2.checkpoint import fpn_part

    kept = fpn_part(weights)
    return {"model": kept, "__author__": "fpt_d2"}, f"{len(kept)} of the {len(weights)} tensors to {output}"


def main(argv: Sequence[str] | None = None) -> int:
    return rewrite_weights(tool_parser(__doc__), argv, keep_fpn)


if __name__ == "__main__":
    sys.exit(main())
