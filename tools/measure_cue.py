#!/usr/bin/env python
"""Measure whether FPT looks at what decides, on scenes whose classes a cue tells: the share of scenes in which the most
attended place is on the cue, and the share of the attention there, over all levels and from each.

Example:
    python tools/generate_shapes.py --task context-detection
    python tools/measure_cue.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_context.yaml --num-images 60
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fpt_d2.cli import add_num_images, add_opts, exit_on_user_errors
from fpt_d2.commands.common import log_to_terminal, logger, read_test_set, tool_parser
from fpt_d2.errors import UserError


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    help = "config of the trained model; the scenes are those of the first of its DATASETS.TEST"
    parser.add_argument("--config-file", required=True, metavar="FILE", help=help)
    add_num_images(parser, default=60)
    add_opts(parser)
    args = parser.parse_args(argv)

    from tqdm import tqdm

    from fpt_d2.data import read_image
    from fpt_d2.engine.inference import build_predictor, get_inference_config
    from fpt_d2.visualization.cue import cue_classes, mean_on_cue, measure_on_cue

    log_to_terminal()
    cfg = get_inference_config(args.config_file, args.opts)
    records, metadata = read_test_set(cfg, args.num_images)
    cue_classes(metadata)
    predictor = build_predictor(cfg)
    measured = (
        measure_on_cue(predictor, read_image(record["file_name"], "BGR"), record, metadata)
        for record in tqdm(records, unit="scene")
    )
    scenes = [scene for scene in measured if scene is not None]
    if not scenes:
        raise UserError(f"None of {len(records)} images of {metadata.name} has a cue and an object that it decides")
    mean = mean_on_cue(scenes)
    logger.info("Scenes whose most attended place is on a cue: %.1f%% of %d", 100 * mean.peak, len(scenes))
    logger.info("Attention on the cues: %.1f%%, which are %.1f%% of the image", 100 * mean.mass, 100 * mean.area)
    for name, mass in mean.mass_from.items():
        logger.info("  %s: %.1f%%", name, 100 * mass)
    return 0


if __name__ == "__main__":
    sys.exit(main())
