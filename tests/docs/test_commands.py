"""Every command of README.md and docs/ is run by a test, or says what it needs; and all of them are spelled right."""

from __future__ import annotations

import argparse
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fpt_d2 import cli
from fpt_d2.config_file import get_default_config
from fpt_d2.config_values import flat
from fpt_d2.model_zoo import find_bundled

from .commands import PAGES, blocks_of, with_config
from .pages import ROOT

# Who runs the blocks of a page that do not say what they need.
RUN_BY = {
    "README.md": "tests/docs/test_commands.py",  # make's commands: test_make
    "install.md": "tests/docs/test_commands.py",
    "benchmark.md": "tests/tools/test_benchmark.py",
    "finetune.md": "tests/packaging/test_finetune_guide.py",
    "getting_started.md": "tests/docs/test_run_pages.py",
    "training.md": "tests/docs/test_run_pages.py",
    "deploy.md": "tests/docs/test_run_pages.py",
    "datasets.md": "tests/docs/test_run_pages.py",
    "segmentation.md": "tests/docs/test_run_pages.py",
    "transcript.md": "tests/docs/test_transcript.py",
}
BLOCKS = [block for page in ["README.md", *PAGES] for block in blocks_of(page)]
COMMANDS = sorted({tuple(with_config(words)) for block in BLOCKS for words in block.commands})
# The transcript is for a folder that the repository lies in, as fpt_d2.
SCRIPTS = [
    ("python", words[1].removeprefix("fpt_d2/"), *words[2:])
    for words in COMMANDS
    if words[0] == "python" and words[1] != "-m"
]
SCRIPTS += [("python", cli.SCRIPTS[words[0]], *words[1:]) for words in COMMANDS if words[0] in cli.SCRIPTS]


class Parsed(BaseException):
    """Ends a script once its command line has been read."""


def read_command_line(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: argparse.ArgumentParser, *args: Any, **options: Any) -> None:
        raise Parsed(parse(parser, *args, **options))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    monkeypatch.setattr(sys, "argv", [*words])
    monkeypatch.syspath_prepend(str((ROOT / words[0]).parent))
    with pytest.raises(Parsed) as parsed:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    return parsed.value.args[0]


def test_there_are_commands() -> None:
    assert len(BLOCKS) > 30 and len(SCRIPTS) > 50


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_a_command_is_run_or_says_what_it_needs(page: str) -> None:
    if any(not block.needs for block in blocks_of(page)):
        runner = RUN_BY[page]
        text = (ROOT / runner).read_text(encoding="utf-8")
        assert Path(page).stem in text or "benchmark" in runner, f"{runner} does not know {page}"
    if page in ("README.md", "install.md"):  # nothing is installed or fetched by a test
        assert all(words[0] == "make" for block in blocks_of(page) if not block.needs for words in block.commands)


@pytest.mark.parametrize("words", SCRIPTS, ids=lambda words: " ".join(words[1:])[:70])
def test_options_configs_and_keys_are_there(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    args = read_command_line(words[1:], monkeypatch)
    named = re.findall(r"(?:configs|recipes)/[\w./-]+\.(?:yaml|py)", " ".join(words))
    assert all((ROOT / file).is_file() for file in named)
    if words[1] in cli.SCRIPTS.values() and (file := getattr(args, "config_file", "")) and not Path(file).is_absolute():
        assert "/" not in file or find_bundled(file, "configs") or file.startswith("output/"), file
    keys = [word for word in getattr(args, "opts", [])[::2] if "=" not in word]
    assert {*keys} <= flat(get_default_config()).keys()


def test_make() -> None:
    """Its targets exist, and quickstart runs what the page on getting started shows."""
    targets = {words[-1] for words in COMMANDS if words[0] == "make"}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets and targets <= set(re.search(r"^\.PHONY: (.*)", makefile, re.MULTILINE)[1].split())
    shown = {words[1] for block in blocks_of("getting_started.md")[1:2] for words in block.commands}
    options = ["VENV=.", "READY=Makefile", "DATA=not-there", "PY=python"]
    recipe = subprocess.run(["make", "-n", "quickstart", *options], cwd=ROOT, capture_output=True, text=True).stdout
    assert shown == set(re.findall(r"python (\S+\.py)", recipe))
