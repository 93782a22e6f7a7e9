"""Draw what a pixel or a detected object of an image gathers through FPT: from where on each level, by which branch.

Example:
    fpt-explore --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --input image.jpg --object 1 --output attention.png
    fpt-explore --config-file my_config.yaml --input image.jpg --point 120,80 --level p3 \\
        --output attention.png --opts MODEL.WEIGHTS model.pth
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ..cli import add_confidence_threshold, add_opts, exit_on_user_errors, picture_path
from ..errors import UserError
from .common import box_and_title, log_to_terminal, logger, tool_parser, users_files


def point(text: str) -> tuple[float, float]:
    """``X,Y`` from a command line."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y in pixels, such as 120,80") from None
    return x, y


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--input", required=True, metavar="IMAGE", help="the image")
    parser.add_argument("--output", type=picture_path, required=True, metavar="PNG", help="the picture to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--point", type=point, metavar="X,Y", help="ask about this pixel")
    what.add_argument("--object", type=int, metavar="N", help="ask about the N-th detected object; the surest is 1")
    help = "the level that is asked; default: the one that the object is pooled from, or the finest"
    parser.add_argument("--level", help=help)
    add_confidence_threshold(parser)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from ..data import read_image
    from ..data.images import check_scaling
    from ..engine.inference import build_predictor, class_metadata, get_inference_config
    from ..visualization import draw_exploration, explore

    log_to_terminal()
    cfg = get_inference_config(args.config_file, args.opts, min_score=args.confidence_threshold)
    image = read_image(args.input, "BGR")
    (height, width), (x, y) = image.shape[:2], args.point or (0, 0)
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(f"--point {x:g},{y:g} is outside the image, which is {width} x {height} pixels")
    predictor = build_predictor(cfg)
    check_scaling(args.input, image, [predictor.aug])
    if args.point is None:
        box, title = _object(predictor(image), args.object, class_metadata(cfg, predictor.classes))
    else:
        box, title = (x, y, x, y), f"pixel {x:g}, {y:g}"
    exploration = explore(predictor, image, box, level=args.level)
    with users_files():
        draw_exploration(image[:, :, ::-1], box, exploration, args.output, title=title)
    for gathered in exploration.gathered:
        sharpness = "" if gathered.entropy is None else f", entropy {gathered.entropy:.2f}"
        logger.info("%s: %.1f%% of %s%s", gathered.name, 100 * gathered.share, exploration.level, sharpness)
    logger.info("Wrote %s", args.output)
    return 0


def _object(outputs: dict[str, Any], number: int, metadata: Any) -> tuple[tuple[float, ...], str]:
    """Box and name of the N-th surest detection."""
    if "instances" not in outputs:
        raise UserError("The model detects no objects: ask about a pixel, --point X,Y")
    instances = outputs["instances"].to("cpu")
    order = instances.scores.argsort(descending=True)
    if not 1 <= number <= len(order):
        remedy = "lower --confidence-threshold, or ask about a pixel, --point X,Y"
        raise UserError(f"There is no object {number}: the model detected {len(order)} in this image; {remedy}")
    return box_and_title(instances, int(order[number - 1]), metadata)
