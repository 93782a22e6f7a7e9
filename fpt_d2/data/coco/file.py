"""An annotation file in COCO format: what it holds, and what is wrong with it."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..findings import Findings
from .schema import KEYS, Record, validate
from .stream import open_json


@dataclass
class CocoFile:
    """The records of a file, each with the known fields alone, and of each field one form.

    Ids, sizes and crowd flags are int, or for ids all str; coordinates are float. Polygons are lists of arrays
    (2 * points,) float64. Annotations have ``no_area``, "box" or "mask", where that is empty.

    Attributes:
        name: of the file.
        images, categories, annotations: the records; those that are not as they should be are left out.
        counts: how many records each key has in the file.
        left_out: the ids of images and categories that are in the file, but not as they should be.
        errors: what makes training or evaluation fail, or learn nonsense.
        warnings: what Detectron2 leaves out by itself; COCO has some.
        changes: what was read otherwise than it stands in the file.
    """

    name: str
    images: list[Record] = field(default_factory=list)
    categories: list[Record] = field(default_factory=list)
    annotations: list[Record] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: set[Any] = field(default_factory=set)
    errors: Findings = field(default_factory=Findings)
    warnings: Findings = field(default_factory=Findings)
    changes: Findings = field(default_factory=Findings)

    def class_names(self) -> list[str]:
        """In the order of the model's classes; nothing where they cannot be known."""
        names = [category["name"] for category in self.sorted_categories()]
        has_one_type = len({type(category["id"]) for category in self.categories}) < 2
        return names if has_one_type and len({*names}) == self.counts["categories"] else []

    def sorted_categories(self) -> list[Record]:
        """In the order of their ids, which is that of the model's classes."""
        return sorted(self.categories, key=lambda category: (isinstance(category["id"], str), category["id"]))


class Example:
    """A record, named where it is shown: by then the images are known that annotations are of."""

    def __init__(
        self, content: CocoFile, key: str, record: Any, position: int = 0, value: Any = ..., said: str = ""
    ) -> None:
        """
        Args:
            key: images, categories or annotations, of which ``record`` is the one at ``position``.
            value: what is wrong with it, if that is to be shown.
            said: shown in place of the value.
        """
        self._content, self._key, self._record = content, key, record
        self._position, self._value, self._said = position, value, said

    def __str__(self) -> str:
        record = self._record if isinstance(self._record, dict) else {}
        name = f"{self._key}[{self._position}]"
        if self._key == "images" and "file_name" in record:
            name = f"image {record['file_name']!r}"
        elif self._key != "images" and "id" in record:
            name = {"categories": "category", "annotations": "annotation"}[self._key] + f" {record['id']!r}"
        if self._key == "annotations" and "image_id" in record:
            found = (image["file_name"] for image in self._content.images if image["id"] == record["image_id"])
            name += f" of image {next(found, record['image_id'])!r}"
        said = self._said or ("" if self._value is ... else _short(self._value))
        return f"{name} ({said})" if said else name


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "a number of very many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse(json_file: str) -> CocoFile:
    """Read a file and check each record by itself.

    Raises:
        DatasetError: the file is not an object in JSON. All else is among the errors of what is returned.
    """
    content = CocoFile(json_file)
    with without_collection(), open_json(json_file) as reader:
        if reader.encoding != "utf-8":
            content.changes.add("text in another encoding than UTF-8", reader.encoding)
        for key, part in reader.parts():
            if key in KEYS:
                _add(content, key, part)
    return content


def _add(content: CocoFile, key: str, part: Any) -> None:
    records: list[Record] = getattr(content, key)
    if not isinstance(part, list):
        content.errors.add("top-level key is not a list", key)
        return
    valid, problems = validate(key, part)
    for position, kind, value in problems:
        record = part[position]
        content.errors.add(kind, Example(content, key, record, content.counts[key] + position, value))
        if key != "annotations" and isinstance(record, dict) and isinstance(record.get("id"), Hashable):
            content.left_out.add((key, record.get("id")))
    if key == "images":
        for record in part:
            if isinstance(record, dict) and float in (type(record.get("width")), type(record.get("height"))):
                content.changes.add("height or width with a decimal point", Example(content, key, record))
    content.counts[key] += len(part)
    records += valid


@contextmanager
def without_collection() -> Iterator[None]:
    """Millions of new objects of which none is garbage: looking through them again and again takes half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
