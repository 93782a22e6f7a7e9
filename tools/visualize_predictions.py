#!/usr/bin/env python
"""Draw a trained model's predictions beside the ground truth, for the first images of DATASETS.TEST, as one picture.

Example:
    python tools/visualize_predictions.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --output predictions.png
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fpt_d2.cli import add_confidence_threshold, add_num_images, add_opts, exit_on_user_errors, picture_path
from fpt_d2.commands.common import log_to_terminal, logger, read_test_set, tool_parser, users_files


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--output", type=picture_path, required=True, metavar="PNG", help="the picture to write")
    add_num_images(parser, default=8)
    add_confidence_threshold(parser)
    add_opts(parser)
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from fpt_d2.data import read_image
    from fpt_d2.data.images import check_scaling
    from fpt_d2.engine.inference import build_predictor, get_inference_config
    from fpt_d2.visualization import Example, draw_predictions_grid

    log_to_terminal()
    cfg = get_inference_config(args.config_file, args.opts, min_score=args.confidence_threshold)
    records, metadata = read_test_set(cfg, args.num_images)
    predictor = build_predictor(cfg)
    examples = []
    for record in tqdm(records, unit="image", disable=None):
        image = read_image(record["file_name"], "BGR")
        check_scaling(record["file_name"], image, [predictor.aug])
        examples.append(Example(image[:, :, ::-1], record, predictor(image)))
    with users_files():
        draw_predictions_grid(examples, args.output, metadata, min_score=args.confidence_threshold)
    logger.info("Wrote the predictions on %d images to %s", len(examples), args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
