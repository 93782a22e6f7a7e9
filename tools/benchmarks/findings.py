"""What a section of the GPU report has found, on disk after every line: a section that dies keeps what it had."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]


@dataclass
class Findings:
    """Tables and sentences of one section.

    Attributes:
        path: the JSON file that has them.
        deadline: by ``time.time()``; what has not begun by then is left out, and said so.
        tables: rows by the name of their table.
        notes: sentences.
        left_out: what there was no time for.
    """

    path: Path
    deadline: float
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, table: str, *rows: Row) -> None:
        self.tables.setdefault(table, []).extend(rows)
        self._save()

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)
            self._save()
            say(sentence)

    def has_time(self, case: str) -> bool:
        """Whether ``case`` may begin; it is said what is going on."""
        if time.time() < self.deadline:
            say(f"{self.path.stem}: {case}")
            return True
        self.left_out.append(case)
        self._save()
        return False

    def _save(self) -> None:
        content = {"tables": self.tables, "notes": self.notes, "left_out": self.left_out}
        part = self.path.with_suffix(".part")  # whoever reads never finds half a file
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(self.path)


def read_findings(paths: Iterable[Path]) -> Findings:
    """The findings of the shares of a section as one; of a share that wrote nothing there are none."""
    whole = Findings(Path(), 0.0)
    for path in paths:
        content = json.loads(path.read_text()) if path.exists() else {"tables": {}, "notes": [], "left_out": []}
        for name, rows in content["tables"].items():
            whole.tables.setdefault(name, []).extend(rows)
        whole.notes += [note for note in content["notes"] if note not in whole.notes]
        whole.left_out += content["left_out"]
    return whole


def say(what: str) -> None:
    """A line of progress with the time."""
    print(f"[{time.strftime('%H:%M:%S')}] {what}", flush=True)


def last_line(error: BaseException) -> str:
    """The kind of an error and the last line of its message, cut to a table's width."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".removesuffix(": ")[:200]
