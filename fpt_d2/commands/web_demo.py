"""A page in the browser to play with a trained model: drop an image, see what is detected, click a place to see what it
looked at on each level, move the threshold, compare with the branches off, which is FPN.

Examples:
    fpt-web-demo                    # the model of `make quickstart`
    fpt-web-demo --config-file my_config.yaml --opts MODEL.WEIGHTS output/model_final.pth

The page is for this machine alone, and nothing leaves it: --host 0.0.0.0 opens it to everyone who reaches the machine.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence

from ..cli import add_opts, exit_on_user_errors, positive_int
from ..errors import UserError, WeightsError
from ..model_zoo import get_config_file
from .common import log_to_terminal, logger, tool_parser

QUICKSTART = "quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml"


@exit_on_user_errors(interrupted="Stopped")
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    help = "config of the trained model; default: that of `make quickstart`"
    parser.add_argument("--config-file", metavar="FILE", help=help)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s, this machine)")
    parser.add_argument("--port", type=positive_int, default=7860, help="port to serve at (default %(default)s)")
    add_opts(parser)
    args = parser.parse_args(argv)
    if args.port > 65535:
        raise UserError(f"--port is {args.port}; a port is a number from 1 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise UserError("The page needs Gradio: pip install gradio, or fpt_d2's extra: pip install -e '.[web]'")

    from .web.viewer import Viewer, viewer_config

    log_to_terminal()
    try:
        cfg = viewer_config(args.config_file or get_config_file(QUICKSTART), args.opts)
    except WeightsError as error:
        if args.config_file or "MODEL.WEIGHTS" in args.opts:
            raise
        raise UserError(f"{error}; `make quickstart` trains the model that this page shows by default") from error
    viewer = Viewer(cfg)
    from .web.page import served

    with served(viewer, _title(cfg.MODEL.WEIGHTS), host=args.host, port=args.port) as address:
        logger.info("The page is at %s; Ctrl-C ends it", address)
        threading.Event().wait()
    return 0


def _title(weights: str) -> str:
    """Whose detections the page shows: the last two names of a path."""
    return "/".join(weights.split("/")[-2:])
