#!/usr/bin/env python
"""Export a model, and compare what was exported with the model itself at two image sizes.

--format torchscript    the whole R-CNN or RetinaNet, by tracing                   -> model.ts
--format torch_export   the backbone, by torch.export                              -> backbone.pt2
--format onnx           the backbone (pip install onnx onnxruntime onnxscript)     -> backbone.onnx
--format compile        the backbone under torch.compile; nothing is written

The weights are those of MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR.

Example:
    python tools/export_model.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --format onnx --output exported
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common import logger, make_folder, tool_parser, users_files

from fpt_d2.cli import add_opts, exit_on_user_errors

FORMATS = ("torchscript", "torch_export", "onnx", "compile")
# Largest difference, relative to the largest value of an output. Reordered float32 sums stay far below.
TOLERANCE = 1e-3


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--format", required=True, choices=FORMATS, help="see above")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the file goes")
    add_opts(parser)
    args = parser.parse_args(argv)

    from detectron2.modeling import build_model
    from detectron2.utils.logger import setup_logger
    from exporters import IMAGE_SIZES, check_format, export

    from fpt_d2.checkpoint import FPTCheckpointer
    from fpt_d2.engine.inference import get_inference_config

    setup_logger(name="fpt_d2")
    cfg = get_inference_config(args.config_file, args.opts, min_score=None)
    model = build_model(cfg).eval()
    check_format(model, args.format)
    FPTCheckpointer(model, whole=True, input_format=cfg.INPUT.FORMAT).load(cfg.MODEL.WEIGHTS)
    with users_files():
        difference = export(model, args.format, make_folder(args.output))
    sizes = " and ".join(f"{height}x{width}" for height, width in IMAGE_SIZES)
    if difference > TOLERANCE:
        logger.error("What was exported differs by %.2g at %s: do not use it", difference, sizes)
        return 1
    logger.info("Exported as %s to %s. Largest difference at %s: %.2g", args.format, args.output, sizes, difference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
