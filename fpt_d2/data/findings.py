"""What checks find, in sentences."""

from __future__ import annotations

from collections import Counter, defaultdict
from textwrap import shorten

from detectron2.data import Metadata

from ..errors import printable

_MAX_EXAMPLES = 3
_LONGEST = 500  # characters of an example, which may be a name out of a file


class Findings:
    """Problems grouped by kind: how many there are of each, and its first few."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[object]] = defaultdict(list)

    def add(self, kind: str, example: object) -> None:
        """``example`` becomes text only where it is shown."""
        self.counts[kind] += 1
        if self.counts[kind] <= _MAX_EXAMPLES:
            self._examples[kind].append(example)

    def update(self, other: Findings) -> None:
        """Add those of ``other``."""
        for kind, count in other.counts.items():
            self._examples[kind] += other._examples[kind][: max(0, _MAX_EXAMPLES - self.counts[kind])]
            self.counts[kind] += count

    def move(self, kind: str, other: Findings) -> None:
        """Make those of a kind ``other``'s."""
        other._examples[kind] += self._examples.pop(kind)
        other.counts[kind] += self.counts.pop(kind)

    def lines(self) -> list[str]:
        """One line for each kind."""
        more = {kind: ", ..." if count > _MAX_EXAMPLES else "" for kind, count in self.counts.items()}
        return [
            f"{kind} ({self.counts[kind]}): {', '.join(map(_shown, self._examples[kind]))}{more[kind]}"
            for kind in self.counts
        ]


def _shown(example: object) -> str:
    text = str(example)
    return printable(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def excerpt(text: object) -> str:
    """As much of what a file says as a finding shows."""
    return shorten(str(text), 100, placeholder=" ...")


def how_to_get(metadata: Metadata) -> str:
    """What to do about a data set whose files are missing or wrong."""
    return metadata.get("how_to_get") or "Detectron2's own data sets belong under $DETECTRON2_DATASETS"


def different_number(name: str, what: str, found: int, wanted: int, setting: str) -> list[str]:
    """The problem of a data set that has another number of classes or keypoints than the model, if it has.

    Args:
        setting: how to set the model's, up to the number: ``"MODEL.ROI_HEADS.NUM_CLASSES "``.
    """
    if found == wanted:
        return []
    return [f"The data set {name!r} has {found} {what}, but the model {wanted}: set {setting}{found}"]
