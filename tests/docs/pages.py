"""The code blocks of a page in docs/."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def blocks(page: str, language: str = "python") -> dict[str, list[str]]:
    """The blocks of docs/``page`` in one language, by the heading above them."""
    found: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
        found[section.partition("\n")[0]] = re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
    return found


def code_lines(block: str) -> int:
    """Lines that are neither empty nor a comment."""
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in block.splitlines())


def missing_links(page: str) -> list[str]:
    """Files that docs/``page`` links to and that are not there."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    return [link for link in links if not link.startswith("https://") and not (ROOT / "docs" / link).exists()]
