"""The keypoints of a data set, as the categories of its annotation file describe them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from detectron2.data import MetadataCatalog

from ...errors import printable
from .file import CocoFile
from .reading import read_coco

logger = logging.getLogger(__name__)

_COLOR = (255, 128, 0)  # of drawn bones, RGB
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}
_SIDE = re.compile(r"left|right|(?<![a-z0-9])[lr](?![a-z0-9])", re.IGNORECASE)


def set_keypoints(name: str) -> None:
    """Put ``keypoint_names``, ``keypoint_flip_map`` and ``keypoint_connection_rules`` into the metadata of a data set,
    as far as they are not there and its annotation file has them.

    Raises:
        DatasetError: the file is not an object in JSON.
    """
    metadata = MetadataCatalog.get(name)
    if metadata.get("keypoint_names") or not metadata.get("json_file"):
        return
    content = read_coco(metadata.json_file)
    names, bones = keypoint_names(content), _bones(content)
    if not names:
        return
    pairs = flip_pairs(names)
    metadata.set(keypoint_names=names, keypoint_flip_map=pairs)
    if bones and not metadata.get("keypoint_connection_rules"):
        metadata.keypoint_connection_rules = [(names[i - 1], names[j - 1], _COLOR) for i, j in bones]
    shown = printable(", ".join(f"{left} and {right}" for left, right in pairs)) or "none"
    logger.info("%d keypoints of %s; a flip exchanges, by their names: %s", len(names), name, shown)


def keypoint_names(content: CocoFile) -> list[str]:
    """The names that the first category with any has."""
    return next((category["keypoints"] for category in content.categories if category.get("keypoints")), [])


def flip_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that differ in left and right alone, such as left_eye and right_eye, or l-eye and r-eye."""
    mirrored = [_SIDE.sub(lambda match: _other_side(match[0]), name) for name in names]
    return [(name, other) for i, (name, other) in enumerate(zip(names, mirrored)) if other in names[i + 1 :]]


def _other_side(word: str) -> str:
    other = _OTHER[word.lower()]
    return other.upper() if word.isupper() else other.title() if word.istitle() else other


def _bones(content: CocoFile) -> list[tuple[int, int]]:
    """Pairs of keypoints, numbered from 1, that a drawing connects. A skeleton of another form is left out."""
    number, skeletons = len(keypoint_names(content)), [c.get("skeleton") for c in content.categories]
    skeleton = next((s for s in skeletons if isinstance(s, list) and s), [])
    fine = all(isinstance(b, list) and len(b) == 2 and all(x in range(1, number + 1) for x in b) for b in skeleton)
    return [(int(i), int(j)) for i, j in skeleton] if fine else []
