"""What the command lines share: options, and how they end.

Nothing that takes long is imported here, so that ``--help`` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import NO_DETECTRON2
from .errors import Terminated, UserError, disk_sentence, interruption, is_of_disk
from .quiet import silence
from .signals import raised

silence()

# Seconds that processes wait for each other, as in Detectron2.
DEFAULT_TIMEOUT = 1800

# The commands of an installed package, and their scripts in a checkout.
SCRIPTS = {
    "fpt-train": "train_net.py",
    "fpt-demo": "demo/demo.py",
    "fpt-prepare": "tools/prepare.py",
    "fpt-explore": "tools/explore_attention.py",
    "fpt-export": "tools/export_model.py",
    "fpt-ablate": "tools/ablate.py",
    "fpt-web-demo": "tools/web_demo.py",
}
# What an installation of fpt_d2 leaves to the user.
_PACKAGES = {
    "cv2": "OpenCV is not installed: pip install opencv-python-headless",
    "detectron2": NO_DETECTRON2,
    "torch": "PyTorch is not installed: install it as https://pytorch.org/get-started says",
}
_EXAMPLES = """
Examples:
    {prog} --config-file cfg.yaml --num-gpus 8
    {prog} --config-file cfg.yaml SOLVER.BASE_LR 0.001 OUTPUT_DIR output/slower
    {prog} --config-file cfg.yaml --eval-only MODEL.WEIGHTS output/model_final.pth
    {prog} --config-file cfg.yaml --num-gpus 8 --num-machines 2 --machine-rank 0 --dist-url tcp://HOST:PORT
    torchrun --nproc-per-node 8 --max-restarts 3 {script} --config-file cfg.yaml
    srun --ntasks-per-node 8 python {script} --config-file cfg.yaml
"""


@contextmanager
def exit_on_user_errors(interrupted: str = "Interrupted") -> Iterator[None]:
    """End the process in one sentence, with status 2, on what a user can mend, such as a full disk or a package that is
    missing; by Ctrl-C with 130, by SIGTERM with 143, by a terminal that is closed with 129.

    Anything but a ``UserError`` is a mistake of ours and keeps its traceback. As ``@exit_on_user_errors()`` it
    decorates the function of a whole command.

    Args:
        interrupted: the answer to a signal that says no more itself.
    """
    _open_streams()
    with raised() as requests:
        try:
            yield
        except UserError as error:
            _exit(2, _sentence(error))
        except ModuleNotFoundError as error:
            if (package := str(error.name).partition(".")[0]) not in _PACKAGES:
                raise
            _exit(2, _PACKAGES[package])
        except KeyboardInterrupt as error:
            note = error.note if isinstance(error, Terminated) else ""
            _exit(128 + interruption(error), f"Interrupted: {note}" if note else interrupted)
        except Exception as error:
            if requests.signum:  # what it has made of an import, or of a data worker
                _exit(128 + requests.signum, interrupted)
            if not isinstance(error, OSError) or not is_of_disk(error):
                raise
            _exit(2, disk_sentence(error))


def _open_streams() -> None:
    """Python has None for a stream that was closed before its start, as a daemon's are; tqdm and others write to it."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:  # logging, too, writes to stderr instead
        sys.stdout = sys.stderr


def _sentence(error: UserError) -> str:
    """What an error says, without the traceback that torch puts before it where a data worker raised it."""
    name = f"{type(error).__name__}: "
    return str(error).rpartition(name)[2].strip() if str(error).startswith("Caught ") else str(error)


def _exit(status: int, message: str) -> None:
    end = SystemExit(f"{Path(sys.argv[0]).name}: {message}")
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"{end}\n")):
        try:
            stream.write(text)
            stream.flush()
        except OSError:  # a terminal that is closed, which would make the status another at the end of Python
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    end.code = status
    raise end


def spelled(command: str) -> str:
    """How the user of this process starts ``fpt-train`` and its like: by that name, or in a checkout by its script."""
    script = Path(__file__).resolve().parents[1] / SCRIPTS[command]
    is_installed = Path(sys.argv[0]).name in SCRIPTS or not script.is_file()
    return command if is_installed else f"python {SCRIPTS[command]}"


def training_parser(examples: str = _EXAMPLES) -> argparse.ArgumentParser:
    """The options of Detectron2's ``default_argument_parser``, without importing Detectron2.

    Args:
        examples: shown below the options; ``{prog}`` stands for the command, ``{script}`` for what Python starts.
    """
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    script = parser.prog if parser.prog.endswith(".py") else "-m fpt_d2.commands.train"
    parser.epilog = examples.format(prog=parser.prog, script=script)
    parser.add_argument("--config-file", default="", metavar="FILE", help="the config")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the output folder")
    parser.add_argument("--eval-only", action="store_true", help="evaluate the weights, do not train")
    parser.add_argument(
        "--check", action="store_true", help="say what would run, after a few iterations; write nothing"
    )
    parser.add_argument("--num-gpus", type=int, default=1, help="processes on each machine, each with its own GPU")
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument("--machine-rank", type=int, default=0, help="number of this machine, from 0")
    parser.add_argument("--dist-url", default=_own_url(), help="where several processes meet (default %(default)s)")
    help = "seconds that processes wait for one that does not answer (default %(default)s)"
    parser.add_argument("--timeout", type=positive_int, default=DEFAULT_TIMEOUT, metavar="SECONDS", help=help)
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        help="config keys to change, at the end: KEY VALUE pairs, or key=value for a lazy config",
    )
    return parser


def _own_url() -> str:
    """A port for each user, as Detectron2 has it: processes left over from an earlier run keep it occupied."""
    user = os.getuid() if hasattr(os, "getuid") else 1
    return f"tcp://127.0.0.1:{2**15 + 2**14 + user % 2**14}"


def add_opts(parser: argparse.ArgumentParser, help: str = "config keys to change; comes last") -> None:
    """Add ``--opts KEY VALUE ...``."""
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help=help)


def add_num_images(parser: argparse.ArgumentParser, default: int) -> None:
    """Add ``--num-images``."""
    help = f"how many images (default {default})"
    parser.add_argument("--num-images", type=positive_int, default=default, metavar="N", help=help)


def add_confidence_threshold(parser: argparse.ArgumentParser) -> None:
    """Add ``--confidence-threshold``, with the other name that Detectron2's tools have for it."""
    names, help = ("--confidence-threshold", "--conf-threshold"), "lowest score drawn, 0 to 1 (default 0.5)"
    parser.add_argument(*names, type=_score, default=0.5, metavar="SCORE", help=help)


def positive_int(text: str) -> int:
    """A whole number above 0 of up to nine digits, more of which neither clocks nor loops take, as argparse's
    ``type``."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number above 0, of up to nine digits")
    return int(text)


def positive_number(text: str) -> float:
    """A number above 0, as argparse's ``type``; "inf" is one."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def image_size(text: str) -> tuple[int, int]:
    """``HxW``, as argparse's ``type``."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 800x1333")
    return int(sides[0]), int(sides[1])


def picture_path(text: str) -> Path:
    """A file that matplotlib can write, as argparse's ``type``."""
    from matplotlib.backend_bases import FigureCanvasBase  # takes a second, which --help need not wait for

    path, known = Path(text), FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in known or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a picture, such as {path.stem or 'picture'}.png")
    return path


def _score(text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = -1
    if not 0 <= score <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
    return score
