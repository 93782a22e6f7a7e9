#!/usr/bin/env python
"""Write docs/config.md: every config key that add_fpt_config adds, its default, its type, and the comment above it.

    python tools/documentation/config_reference.py            # writes the page
    python tools/documentation/config_reference.py --check    # exit status 1 if the page is out of date

A key without a comment is an error: the page has no gaps.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fpt_d2.cli import exit_on_user_errors
from fpt_d2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "config.md"
INTRODUCTION = """\
# Config keys

<!-- Written by tools/documentation/config_reference.py from fpt_d2/config.py: change it there. -->

`add_fpt_config(cfg)` adds these keys to Detectron2's. Set them as you set Detectron2's: in a YAML file, or as
`KEY VALUE` at the end of a command. A wrong value ends in one sentence that names the key, the value and what is
allowed.
[Detectron2's own keys](https://detectron2.readthedocs.io/en/latest/modules/config.html#yaml-config-references) keep
their meaning; the source pyramid of FPT is set by `MODEL.FPN.{IN_FEATURES, OUT_CHANNELS, NORM, FUSE_TYPE}`.
"""
SECTIONS = {
    "MODEL": "Weights",
    "MODEL.FPT": "The Feature Pyramid Transformer",
    "MODEL.TRUNK": "The trunk",
    "MODEL.PLUGINS": "Attention inside a ResNet",
    "MODEL.BIFPN": "BiFPN",
    "MODEL.ROI_BOX_HEAD": "The authors' box head",
    "MODEL.ROI_MASK_HEAD": "The authors' mask head",
    "MODEL.UFP": "The unscathed pyramid of segmentation",
    "MODEL.SEM_SEG_HEAD": "Heads and losses of segmentation",
    "INPUT": "Images",
    "DATASETS": "Data sets of your own",
    "SOLVER": "Optimizer",
    "DEBUG": "A training in miniature",
    "TEST": "Evaluation",
    "TEST.SLIDING_WINDOW": "Prediction in windows",
    "LOG": "What the terminal shows",
}
DEEPLAB = """\
## Keys of Detectron2's DeepLab project

Where Detectron2 comes with its DeepLab project, `add_fpt_config` also adds that project's keys, which its `config.py`
describes. They set the dilated ResNet, the poly learning rate, the crop, ASPP and the loss of segmentation:
"""

COMMENT = re.compile(r"\s*#\s?(.*)")
SET = re.compile(r"\s*([\w.]+)\.([A-Z][A-Z0-9_]*) = (.*)")
SHORT_NAME = re.compile(r"\s*(\w+) = (?:(\w+(?:\.\w+)+) = CN\(.*|(cfg\.[\w.]+))$")
# In a comment: a key with its section, a key of one's own section, or a value in quotes.
CODE = re.compile(r'"[^"]*"|\b[A-Z][A-Z0-9_]*(?:\.(?:[A-Z][A-Z0-9_*]*|\{[^}]*\}))+|\b[A-Z]+_[A-Z0-9_]+\b')


def descriptions(source: str) -> dict[str, str]:
    """The comment right above each key that is set in ``source``, by the key's full name."""
    found: dict[str, str] = {}
    comment: list[str] = []
    short = {"cfg": ""}
    for line in source.splitlines():
        if match := COMMENT.fullmatch(line):
            comment.append(match[1])
            continue
        if match := SHORT_NAME.fullmatch(line):
            short[match[1]] = (match[2] or match[3]).removeprefix("cfg.")
        elif match := SET.fullmatch(line):
            owner, _, rest = match[1].partition(".")
            name = ".".join(part for part in (short[owner], rest, match[2]) if part)
            # A section that starts with a switch: its comment is the switch's.
            found[f"{name}.ENABLED" if "ENABLED" in match[3] else name] = " ".join(comment)
        comment = []
    return found


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by the full names of their keys."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def added_keys() -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys with defaults that this project adds, and those that Detectron2's DeepLab project adds through it."""
    from detectron2.config import get_cfg

    from fpt_d2 import add_fpt_config

    cfg = get_cfg()
    before = set(flat(cfg))
    try:
        from detectron2.projects.deeplab import add_deeplab_config
    except ModuleNotFoundError:
        deeplab = set()
    else:
        add_deeplab_config(cfg)
        deeplab = set(flat(cfg)) - before
    cfg = get_cfg()
    add_fpt_config(cfg)
    added = {key: value for key, value in flat(cfg).items() if key not in before}
    ours = {key: value for key, value in added.items() if key not in deeplab}
    return ours, {key: value for key, value in added.items() if key in deeplab}


def reference() -> str:
    """The page.

    Raises:
        UserError: a key has no comment, or a section no title.
    """
    from fpt_d2 import config

    ours, deeplab = added_keys()
    comments = descriptions(inspect.getsource(config))
    bare = [key for key in ours if not comments.get(key)]
    if bare:
        raise UserError(f"fpt_d2/config.py has no comment above {', '.join(bare)}: say there what they mean")
    groups: dict[str, list[str]] = {}
    for key in comments:  # in the order of the file
        if key in ours:
            groups.setdefault(key.rpartition(".")[0], []).append(key)
    untitled = groups.keys() - SECTIONS.keys()
    if untitled:
        raise UserError(f"{Path(__file__).name} has no title for {', '.join(sorted(untitled))}: add it to SECTIONS")
    parts = [INTRODUCTION]
    for section in sorted(groups, key=list(SECTIONS).index):
        rows = [_row(key.rpartition(".")[2], ours[key], comments[key]) for key in groups[section]]
        parts.append("\n".join([f"## {SECTIONS[section]}: `{section}`", "", *_HEADER, *rows, ""]))
    if deeplab:
        parts.append(DEEPLAB + "\n" + textwrap.fill(", ".join(f"`{key}`" for key in deeplab), 160) + "\n")
    return "\n".join(parts)


_HEADER = ("| key | type | default | meaning |", "|---|---|---|---|")


def _row(name: str, default: Any, comment: str) -> str:
    text = CODE.sub(lambda match: f"`{match[0]}`", comment).replace("|", r"\|")
    shown = f'"{default}"' if isinstance(default, str) else str(default).replace("'", '"')
    return f"| `{name}` | {type(default).__name__} | `{shown}` | {text} |"


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args(argv)
    text = reference()
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        print(f"docs/config.md is out of date: python {Path(__file__).relative_to(ROOT)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
