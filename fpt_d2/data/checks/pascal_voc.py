"""The check of Detectron2's Pascal VOC data sets: that their files are there, and are of Pascal VOC's classes."""

from __future__ import annotations

import os
from xml.etree import ElementTree

from detectron2.data import Metadata

from ...cli import spelled
from ...paths import open_file, why
from ..findings import Findings, how_to_get

_CONVERT = f"`{spelled('fpt-prepare')} voc FOLDER --name NAME` converts VOC files with classes of your own"


def check_pascal_voc(metadata: Metadata) -> list[str]:
    """A sentence for each kind of problem, with the number of files that have it and the first of them."""
    folder, classes = metadata.dirname, metadata.thing_classes
    list_file = os.path.join(folder, "ImageSets", "Main", f"{metadata.split}.txt")
    try:
        with open_file(list_file, "r") as file:
            ids = [line.split()[0] for line in file if line.strip()]
    except (OSError, ValueError) as error:
        return [f"The data set {metadata.name!r} cannot be read: {list_file} ({why(error)}); {how_to_get(metadata)}"]
    errors = Findings()
    for image_id in ids:
        path = os.path.join(folder, "Annotations", f"{image_id}.xml")
        try:
            with open_file(path, "r") as file:
                names = {name.text for name in ElementTree.parse(file).iterfind("./object/name")}
        except (OSError, ValueError, ElementTree.ParseError) as error:
            errors.add("annotation file cannot be read", f"{path} ({why(error)})")
            continue
        for name in sorted(map(str, names - {*classes})):
            errors.add(f"class is not one of Pascal VOC's {len(classes)}", f"{name!r} in {path}")
    if not ids:
        errors.add("list of images is empty", list_file)
    return [f"The data set {metadata.name!r}: {line}. {_CONVERT}" for line in errors.lines()]
