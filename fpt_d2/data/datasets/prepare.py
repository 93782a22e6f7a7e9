"""Preparation of data sets for semantic segmentation: from what was downloaded to what is registered.

Every function takes the folder of one data set, raises a DatasetError that says what is missing there, and never
changes or replaces a file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES
from PIL import Image
from tqdm import tqdm

from ...errors import DatasetError
from ...paths import open_file
from ..labels import IGNORE_LABEL, label_colors, read_labels
from .sem_seg import LIP_FOLDERS, LIP_SPLITS, VOC_CLASSES, read_names

logger = logging.getLogger(__name__)

# Numbers of images, as published.
CITYSCAPES_IMAGES = {"train": 2975, "val": 500}
ADE20K_IMAGES = {"training": 20210, "validation": 2000}
VOC_IMAGES = {"train": 1464, "val": 1449, "trainaug": 10582}
LIP_IMAGES = {"train": 30462, "val": 10000}


def prepare_cityscapes(root: Path) -> None:
    """Write ``*_gtFine_labelTrainIds.png`` beside every ``*_gtFine_labelIds.png``: the 19 classes, 255 for the rest."""
    train_ids = np.full(256, IGNORE_LABEL, dtype=np.uint8)
    for category in CITYSCAPES_CATEGORIES:
        train_ids[category["id"]] = category["trainId"]
    get = f"download leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip and unpack both in {root}"
    tasks = []
    for split, expected in CITYSCAPES_IMAGES.items():
        _require_folders([root / "leftImg8bit" / split, root / "gtFine" / split], get)
        images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
        _report_number("Cityscapes", split, len(images), expected)
        bases = [root / "gtFine" / split / p.parent.name / p.name.replace("_leftImg8bit.png", "") for p in images]
        sources = [Path(f"{base}_gtFine_labelIds.png") for base in bases]
        _require_files([*sources, *(Path(f"{base}_gtFine_polygons.json") for base in bases)], get)
        tasks += [(source, Path(f"{base}_gtFine_labelTrainIds.png")) for source, base in zip(sources, bases)]
    _convert(tasks, lambda path: train_ids[read_labels(path)])


def prepare_ade20k(root: Path) -> None:
    """Write ``annotations_detectron2``: the labels of ``annotations`` less one, so that their 0, no class, is 255."""
    get = f"download ADEChallengeData2016.zip and unpack it in {root.parent}"
    tasks = []
    for split, expected in ADE20K_IMAGES.items():
        images, annotations = root / "images" / split, root / "annotations" / split
        _require_folders([images, annotations], get)
        masks = [annotations / f"{path.stem}.png" for path in sorted(images.glob("*.jpg"))]
        _report_number("ADE20K", split, len(masks), expected)
        _require_files(masks, get)
        tasks += [(mask, root / "annotations_detectron2" / split / mask.name) for mask in masks]
    _convert(tasks, lambda path: read_labels(path) - np.uint8(1))  # 0 becomes 255


def prepare_voc(root: Path, sbd: Path | None = None) -> None:
    """Write ``SegmentationClassAug`` and ``ImageSets/Segmentation/trainaug.txt``.

    The masks are VOC's own where it has one, else those of the Semantic Boundaries Dataset (SBD). ``trainaug`` is
    what either of them has, without VOC's ``val``.

    Args:
        root: ``VOC2012``.
        sbd: SBD's ``dataset`` folder, with ``cls``, ``train.txt`` and ``val.txt``. None where ``SegmentationClassAug``
            was downloaded; without either, only VOC's own ``train`` and ``val`` are prepared.
    """
    get = f"download VOCtrainval_11-May-2012.tar and move its VOCdevkit/VOC2012 to {root}"
    lists, masks = root / "ImageSets" / "Segmentation", root / "SegmentationClassAug"
    _require_folders([root / "JPEGImages", root / "SegmentationClass", lists], get)
    _require_files([lists / f"{split}.txt" for split in ("train", "val")], get)
    names = {split: read_names(lists / f"{split}.txt") for split in ("train", "val")}
    own = sorted({*names["train"], *names["val"]})
    _require_files([root / "SegmentationClass" / f"{name}.png" for name in own], get)
    _convert([(root / "SegmentationClass" / f"{name}.png", masks / f"{name}.png") for name in own], _read_voc_mask)
    augmented = [path.stem for path in masks.glob("*.png")] if sbd is None else _convert_sbd(sbd, masks, set(own))
    names["trainaug"] = sorted({*names["train"], *augmented} - set(names["val"]))
    if len(names["trainaug"]) > len(names["train"]):
        _write_list(lists / "trainaug.txt", names["trainaug"])
    else:
        del names["trainaug"]
        logger.warning(
            "voc_2012_sem_seg_trainaug is not prepared: it needs the Semantic Boundaries Dataset (benchmark.tgz), "
            "whose folder benchmark_RELEASE/dataset is to be given as --sbd"
        )
    for split, found in names.items():
        _report_number("VOC 2012", split, len(found), VOC_IMAGES[split])
        _require_files([masks / f"{name}.png" for name in found], "give SBD's folder as --sbd")


def prepare_lip(root: Path) -> None:
    """Put links where the folders of LIP are expected but those unpacked lie elsewhere under ``root``."""
    get = f"download TrainVal_images.zip and TrainVal_parsing_annotations.zip and unpack both in {root}"
    for split in LIP_SPLITS:
        images, masks = (root / LIP_FOLDERS[kind].format(split) for kind in ("images", "masks"))
        for folder in (images, masks):
            _link_found(folder, root)
        _require_folders([images, masks], get)
        files = [masks / f"{path.stem}.png" for path in sorted(images.glob("*.jpg"))]
        _report_number("LIP", split, len(files), LIP_IMAGES[split])
        _require_files(files, get)


def _convert_sbd(sbd: Path, masks: Path, own: set[str]) -> list[str]:
    """Write SBD's masks of the images for which VOC has none; return the names of all of SBD's."""
    get = "download benchmark.tgz (Semantic Boundaries Dataset), unpack it, and give its dataset folder as --sbd"
    _require_folders([sbd / "cls"], get)
    _require_files([sbd / "train.txt", sbd / "val.txt"], get)
    names = sorted({name for split in ("train", "val") for name in read_names(sbd / f"{split}.txt")})
    _require_files([sbd / "cls" / f"{name}.mat" for name in names], get)
    _convert([(sbd / "cls" / f"{n}.mat", masks / f"{n}.png") for n in names if n not in own], _read_sbd_mask)
    return names


def _read_sbd_mask(path: Path) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise DatasetError("Reading SBD's masks needs the package scipy: install it") from error
    labels: np.ndarray = loadmat(path, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
    return labels.astype(np.uint8)


def _read_voc_mask(path: Path) -> np.ndarray:
    """Labels of a mask with VOC's palette, or of one whose colors were written out as RGB."""
    with open_file(path) as file, Image.open(file) as image:
        if image.mode not in ("RGB", "RGBA"):
            return read_labels(path)
        found, indices = np.unique(_color_codes(np.asarray(image.convert("RGB"))), return_inverse=True)
        size = image.height, image.width
    labels = [*range(len(VOC_CLASSES)), IGNORE_LABEL]
    palette = np.array(label_colors(256), dtype=np.uint8)[labels]
    label_of = dict(zip(_color_codes(palette).tolist(), labels))
    unknown = [f"#{code:06x}" for code in found.tolist() if code not in label_of]
    if unknown:
        raise DatasetError(f"{path} has the color {unknown[0]}, which is none of Pascal VOC's")
    return np.array([label_of[code] for code in found.tolist()], dtype=np.uint8)[indices].reshape(size)


def _color_codes(colors: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 RGB -> (...), one number for each color."""
    codes: np.ndarray = colors.astype(np.int32) @ np.array([65536, 256, 1])
    return codes


def _convert(tasks: Iterable[tuple[Path, Path]], read: Callable[[Path], np.ndarray]) -> None:
    """Write the labels that ``read`` returns of each source to its target; targets that are there are kept."""
    tasks = list(tasks)
    todo = [(source, target) for source, target in tasks if not target.exists()]
    for source, target in tqdm(todo, unit="mask", disable=None):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Under another name until it is whole, so that an interruption leaves no broken mask that would be kept.
        unfinished = target.with_name(f"{target.name}.unfinished")
        Image.fromarray(read(source)).save(unfinished, format="PNG")
        os.replace(unfinished, target)
    folder = os.path.commonpath([target.parent for _, target in tasks]) if tasks else ""
    logger.info("%d masks written under %s, %d kept as they were", len(todo), folder, len(tasks) - len(todo))


def _link_found(folder: Path, root: Path) -> None:
    """Make ``folder`` a link to the one folder of its name elsewhere under ``root``, if it is not there itself."""
    if folder.exists():
        return
    found = [path for path in root.rglob(folder.name) if path.is_dir()] if root.is_dir() else []
    if len(found) == 1:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(os.path.relpath(found[0], folder.parent), target_is_directory=True)
        logger.info("%s is now a link to %s", folder, found[0])


def _write_list(path: Path, names: list[str]) -> None:
    """Write a list of names, unless it exists; DatasetError if it does with other names."""
    if not path.exists():
        path.write_text("".join(f"{name}\n" for name in names))
    elif sorted(read_names(path)) != sorted(names):
        raise DatasetError(f"{path} lists other images than there are masks: move it away to have it written anew")


def _require_folders(folders: Iterable[Path], remedy: str) -> None:
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        raise DatasetError(f"Missing: {', '.join(missing)}. Remedy: {remedy}")


def _require_files(files: Iterable[Path], remedy: str) -> None:
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DatasetError(f"{len(missing)} files are missing: {named}. Remedy: {remedy}")


def _report_number(name: str, split: str, found: int, expected: int) -> None:
    if found == 0:
        raise DatasetError(f"{name} {split} has no images")
    level = logging.INFO if found == expected else logging.WARNING
    logger.log(level, "%s %s: %d of %d images", name, split, found, expected)
