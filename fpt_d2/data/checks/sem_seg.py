"""The check of a data set for semantic segmentation: its folders, its classes, and every pair of image and mask."""

from __future__ import annotations

from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...errors import DatasetError
from ..labels import UNREADABLE, read_labels
from .findings import Findings, different_number, how_to_get
from .image_files import image_size, map_files, size_in_words

_HEAD = "MODEL.SEM_SEG_HEAD"
# What the data sets of this project and of Detectron2 call their folders.
_FOLDERS = ("image_root", "sem_seg_root", "image_dir", "gt_dir")


def check_sem_seg(cfg: CfgNode, name: str, *, read_files: bool) -> list[str]:
    """Check one data set against the head and, with ``read_files``, all its files. Returns a sentence per problem."""
    metadata = MetadataCatalog.get(name)
    classes, ignore_label = metadata.get("stuff_classes"), metadata.get("ignore_label")
    if not classes:
        return [f"The data set {name!r} has no semantic masks, which {cfg.MODEL.META_ARCHITECTURE} needs"]
    head = cfg.MODEL.SEM_SEG_HEAD
    problems = different_number(name, "classes", len(classes), head.NUM_CLASSES, f"{_HEAD}.NUM_CLASSES ")
    if ignore_label is not None and ignore_label != head.IGNORE_VALUE:
        problems.append(
            f"The data set {name!r} marks pixels without a class by {ignore_label}, but the model ignores "
            f"{head.IGNORE_VALUE}: set {_HEAD}.IGNORE_VALUE {ignore_label}"
        )
    return problems + (check_sem_seg_files(name) if read_files else [])


def check_sem_seg_files(name: str) -> list[str]:
    """Check that the folders of a data set exist, and that image and mask of every record do and fit.

    Returns:
        A sentence for each kind of problem, with the number of files that have it and the first of them.
    """
    metadata = MetadataCatalog.get(name)
    remedy = how_to_get(metadata)
    for folder in filter(None, (metadata.get(key) for key in _FOLDERS)):
        if not PathManager.isdir(folder):
            return [f"The data set {name!r} is not there: the folder {folder} does not exist; {remedy}"]
    try:
        records = DatasetCatalog.get(name)
    except (AssertionError, OSError, ValueError) as error:  # AssertionError: Detectron2's, of a folder without masks
        return [f"The data set {name!r} cannot be read: {error}; {remedy}"]
    if not records:
        return [f"The data set {name!r} has no images; {remedy}"]
    find = partial(_find_problem, num_classes=len(metadata.stuff_classes), ignore_label=metadata.get("ignore_label"))
    errors = Findings()
    for problem in filter(None, map_files(find, records, "checking masks")):
        errors.add(*problem)
    return [
        f"The data set {name!r}: {line}. Correct the files, or {remedy}; DATASETS.CHECK False skips this check"
        for line in errors.lines()
    ]


def _find_problem(record: dict[str, Any], *, num_classes: int, ignore_label: int | None) -> tuple[str, str] | None:
    """The first problem of an image and its mask: its kind, and the files."""
    image, mask = record["file_name"], record.get("sem_seg_file_name")
    if mask is None:
        return "image without a mask", image
    for kind, path in (("image", image), ("mask", mask)):
        if not PathManager.isfile(path):
            return f"{kind} file does not exist", path
    try:
        labels = read_labels(mask)
    except DatasetError as error:
        return "mask is not a label image", str(error)
    mask_size = labels.shape[1], labels.shape[0]
    try:
        size = image_size(image, expected=mask_size)
    except UNREADABLE as error:
        return "image file cannot be read", f"{image} ({error})"
    if size != mask_size:
        sizes = f"{mask} is {size_in_words(mask_size)}, {image} {size_in_words(size)} pixels"
        return "mask has another size than its image", sizes
    counts = Image.fromarray(labels).histogram()  # faster than NumPy's
    wrong = [label for label, count in enumerate(counts) if count and label >= num_classes and label != ignore_label]
    if wrong:
        allowed = f"0 to {num_classes - 1}" + (f" and {ignore_label}" if ignore_label is not None else "")
        return f"mask has a label that is not a class; classes are {allowed}", f"{mask} has {wrong[0]}"
    return None
