"""Draw the predictions of a trained model on images, on a video or on the webcam's picture.

Examples:
    fpt-demo --config-file configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_1x.yaml \\
        --input photos "more/*.jpg" --output drawn --opts MODEL.WEIGHTS output/model_final.pth
    fpt-demo --config-file ... --video-input street.mp4 --output street_drawn.mp4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..cli import add_confidence_threshold, add_opts, exit_on_user_errors
from .common import tool_parser


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", metavar="PATH", help="images, directories and glob patterns")
    source.add_argument("--video-input", metavar="FILE", help="a video file")
    source.add_argument("--webcam", action="store_true", help="the first webcam, until Escape or Ctrl-C")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="a file or a folder to write to; what an earlier run wrote there is replaced. Without it a window opens",
    )
    add_confidence_threshold(parser)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: the command line, that of the process by default.

    Returns:
        The exit status: 0, or 1 when an input could not be read.
    """
    args = get_parser().parse_args(argv)
    from .drawing.draw import run  # now, because it takes seconds, which --help need not wait for

    return run(args)
