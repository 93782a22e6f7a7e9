"""The check of a data set for semantic segmentation: its folders, its classes, and every pair of image and mask."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ...errors import DatasetError
from ..labels import UNREADABLE, open_labels
from .coco import Findings
from .image_files import by, image_size, map_files

_HEAD = "MODEL.SEM_SEG_HEAD"
# What the data sets of this project and of Detectron2 call their folders.
_FOLDERS = ("image_root", "sem_seg_root", "image_dir", "gt_dir")


def check_sem_seg(cfg: CfgNode, name: str, *, read_files: bool) -> list[str]:
    """Check one data set against the head and, with ``read_files``, all its files.

    Returns:
        A sentence for each thing that is wrong.
    """
    metadata = MetadataCatalog.get(name)
    classes, ignore_label = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if not classes:
        return [f"The data set {name!r} has no semantic masks, which {cfg.MODEL.META_ARCHITECTURE} needs."]
    head, problems = cfg.MODEL.SEM_SEG_HEAD, []
    if head.NUM_CLASSES != len(classes):
        problems.append(
            f"The data set {name!r} has {len(classes)} classes, but the model {head.NUM_CLASSES}: set "
            f"{_HEAD}.NUM_CLASSES {len(classes)}."
        )
    if ignore_label is not None and ignore_label != head.IGNORE_VALUE:
        problems.append(
            f"The data set {name!r} marks pixels without a class by {ignore_label}, but the model ignores "
            f"{head.IGNORE_VALUE}: set {_HEAD}.IGNORE_VALUE {ignore_label}."
        )
    return problems + (check_sem_seg_files(name) if read_files else [])


def check_sem_seg_files(name: str) -> list[str]:
    """Check that the folders of a data set are there, and of every record that image and mask are and fit.

    Returns:
        A sentence for each kind of problem, with the number of files that have it and the first of them.
    """
    metadata = MetadataCatalog.get(name)
    remedy = metadata.get("how_to_get") or "Detectron2's own data sets belong under $DETECTRON2_DATASETS"
    for folder in filter(None, (metadata.get(key) for key in _FOLDERS)):
        if not PathManager.isdir(folder):
            return [f"The data set {name!r} is not there: the folder {folder} does not exist; {remedy}."]
    try:
        records = DatasetCatalog.get(name)
    except (AssertionError, OSError, ValueError) as error:
        return [f"The data set {name!r} cannot be read: {error}; {remedy}."]
    if not records:
        return [f"The data set {name!r} has no images; {remedy}."]
    ignore_label = metadata.get("ignore_label")
    check = SemSegCheck(records, num_classes=len(metadata.stuff_classes), ignore_label=ignore_label)
    return [
        f"The data set {name!r}: {line}. Correct the files, or {remedy}; DATASETS.CHECK False skips this check."
        for line in check.errors.lines()
    ]


class SemSegCheck:
    """Check every pair of image and mask.

    Attributes:
        errors: what is wrong, by kind.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], *, num_classes: int, ignore_label: int | None, progress: bool = True
    ) -> None:
        """
        Args:
            records: in Detectron2's format, with ``file_name`` and ``sem_seg_file_name``.
            num_classes: labels are 0 to ``num_classes - 1``,
            ignore_label: or this one.
            progress: show a progress bar, where there is a terminal.
        """
        self.errors = Findings()
        find = partial(_find_problem, num_classes=num_classes, ignore_label=ignore_label)
        for problem in filter(None, map_files(find, records, "checking masks", progress=progress)):
            self.errors.add(*problem)


def _find_problem(record: dict[str, Any], *, num_classes: int, ignore_label: int | None) -> tuple[str, str] | None:
    """The first problem of an image and its mask: its kind, and the files."""
    image, mask = record["file_name"], record.get("sem_seg_file_name")
    if mask is None:
        return "image without a mask", image
    for kind, path in (("image", image), ("mask", mask)):
        if not PathManager.isfile(path):
            return f"{kind} file does not exist", path
    try:
        with open_labels(mask) as labels:
            counts, mask_size = labels.histogram(), labels.size
    except DatasetError as error:
        return "mask is no label image", str(error)
    try:
        size = image_size(image, expected=mask_size)
    except UNREADABLE as error:
        return "image file cannot be read", f"{image} ({error})"
    if size != mask_size:
        return "mask has another size than its image", f"{mask} is {by(mask_size)}, {image} {by(size)} pixels"
    wrong = [label for label, count in enumerate(counts) if count and label >= num_classes and label != ignore_label]
    if wrong:
        allowed = f"0 to {num_classes - 1}" + (f" and {ignore_label}" if ignore_label is not None else "")
        return f"mask has a label that is no class, which are {allowed}", f"{mask} has {wrong[0]}"
    return None
