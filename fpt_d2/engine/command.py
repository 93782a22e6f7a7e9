"""What the command lines share: options, and how they end."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase


@contextmanager
def exit_on_user_errors(interrupted: str = "Interrupted") -> Iterator[None]:
    """End the process in one sentence, with status 2, on what a user can mend; by Ctrl-C with 130.

    ``ConfigError``, ``DatasetError`` and ``WeightsError`` are ValueErrors. Anything else is a programmer's mistake and
    keeps its traceback. As ``@exit_on_user_errors()`` it decorates the function of a whole command.

    Args:
        interrupted: what Ctrl-C is answered.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        _exit(2, str(error))
    except KeyboardInterrupt:
        _exit(130, interrupted)


def _exit(status: int, message: str) -> None:
    end = SystemExit(f"{Path(sys.argv[0]).name}: {message}")
    sys.stderr.write(f"{end}\n")
    end.code = status
    raise end


def add_opts(parser: argparse.ArgumentParser, help: str = "config keys to change; comes last") -> None:
    """Add ``--opts KEY VALUE ...``."""
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help=help)


def add_num_images(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--num-images``."""
    help = f"how many images (default {default})"
    parser.add_argument("--num-images", type=positive_int, default=default, metavar="N", help=help)


def add_confidence_threshold(parser: argparse.ArgumentParser) -> None:
    """Add ``--confidence-threshold``, by the other name that Detectron2's tools have for it too."""
    names, help = ("--confidence-threshold", "--conf-threshold"), "lowest score drawn, 0 to 1 (default 0.5)"
    parser.add_argument(*names, type=_score, default=0.5, metavar="SCORE", help=help)


def positive_int(text: str) -> int:
    """A whole number above 0, as argparse's ``type``."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def image_size(text: str) -> tuple[int, int]:
    """``HxW``, as argparse's ``type``."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 800x1333")
    return int(sides[0]), int(sides[1])


def picture_path(text: str) -> Path:
    """A file that matplotlib can write, as argparse's ``type``."""
    path, known = Path(text), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a picture, such as {path.stem or 'picture'}.png")
    return path


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return score
