"""The commands of README.md and of the pages in docs/."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from fpt_d2.cli import SCRIPTS

from .pages import ROOT

PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
# What "..." stands for where a page leaves the config out.
CONFIG = "configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml"


class Block(NamedTuple):
    """Commands that a page shows together.

    Attributes:
        page: README.md, or a file in docs/.
        needs: what its first line, a comment, says that it needs, such as a data set; empty if it can run as it is.
        commands: their words.
    """

    page: str
    needs: str
    commands: list[list[str]]


def read_page(page: str) -> str:
    return (ROOT / page if page == "README.md" else ROOT / "docs" / page).read_text(encoding="utf-8")


def blocks_of(page: str) -> list[Block]:
    """The shell blocks of a page, in order."""
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", read_page(page), re.DOTALL | re.MULTILINE):
        commands = list(_commands(block)) if language in ("bash", "sh", "") else []
        needs = re.match(r"# Needs (.*)", block)
        if commands and commands[0][0] in ("python", "pip", "git", "make", "torchrun", "docker", "conda", *SCRIPTS):
            found.append(Block(page, needs[1] if needs else "", commands))
    return found


def _commands(block: str) -> Iterator[list[str]]:
    """The words of each command: a backslash or an open quote goes on in the next line."""
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote that is still open
            pending += "\n"
            continue
        pending = ""
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S+", word)]  # OMP_NUM_THREADS=1 python ...
        if words:
            yield words


def with_config(words: list[str]) -> list[str]:
    """A command with a config in the place of "..."."""
    if "..." not in words:
        return words
    at = words.index("...")
    return words[:at] + ([CONFIG] if words[at - 1] == "--config-file" else ["--config-file", CONFIG]) + words[at + 1 :]
