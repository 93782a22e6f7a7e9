"""The check of a config's data sets before training or evaluation starts."""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from ...config import SEMANTIC_SEGMENTATION
from ...errors import DatasetError
from ...paths import what_is_there
from ..coco import read_coco, set_keypoints, use_what_is_read
from ..findings import Findings, different_number, how_to_get
from .coco import Use, check_image_files, check_left_out, check_use
from .image_files import longest_side
from .panoptic import check_panoptic
from .pascal_voc import check_pascal_voc
from .sem_seg import check_sem_seg

logger = logging.getLogger(__name__)

# Where the heads of a meta-architecture read their number of classes.
_NUM_CLASSES_NODE = {"GeneralizedRCNN": "ROI_HEADS", "PanopticFPN": "ROI_HEADS", "RetinaNet": "RETINANET"}
# What to do about a data set that is not registered.
REGISTER_COCO = "DATASETS.REGISTER_COCO registers your own in COCO format"
REGISTER_SEM_SEG = "DATASETS.REGISTER_SEM_SEG registers your own images and masks"
REGISTER_IN_PYTHON = "Register your own in the config, with detectron2.data.datasets.register_coco_instances"

_COCO_KEYPOINTS = 17  # whose OKS sigmas pycocotools has


class _InstanceTask(NamedTuple):
    """What a model asks of data sets for instances, as :func:`check_instance_datasets` says."""

    num_classes: int | None
    set_num_classes: str
    mask_format: str | None
    keypoints: bool
    max_sizes: tuple[int | None, int | None] = (None, None)  # what long sides are scaled to, in training and test
    needs_objects: tuple[str, ...] = ()
    is_read_again: bool = False
    is_panoptic: bool = False


@contextmanager
def _shown() -> Iterator[None]:
    """Show what is logged meanwhile: the log of a training is set up only after the checks of its config."""
    package = logging.getLogger(__name__.partition(".")[0])
    if package.handlers:
        yield
        return
    handler, level = logging.StreamHandler(sys.stdout), package.level
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s", "%m/%d %H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


@_shown()
def check_datasets(cfg: CfgNode, *, eval_only: bool = False) -> None:
    """Check that the data sets of a config are registered and whole, fit the model, and have the same classes.

    The files are those of every data set that has ``json_file`` and ``image_root`` in its metadata, in COCO format,
    and for semantic segmentation every image and mask. They are read by one process of each machine, and not at all
    with ``DATASETS.CHECK False``. With ``eval_only``, ``DATASETS.TRAIN`` is not going to be read.

    Raises DatasetError with everything that is wrong.
    """
    train, test = () if eval_only else tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.TEST)
    names = list(dict.fromkeys([*train, *test]))
    is_semantic = cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION
    _check_registered(names, REGISTER_SEM_SEG if is_semantic else REGISTER_COCO)
    read_files = cfg.DATASETS.CHECK and comm.get_local_rank() == 0
    if is_semantic:
        problems = [problem for name in names for problem in check_sem_seg(cfg, name, read_files=read_files)]
    else:
        problems = _check_instances(train, test, _instance_task(cfg, eval_only=eval_only), read_files=read_files)
        for name in names:
            problems += _check_keypoints(cfg, name) + _check_stuff(cfg, name)
    if cfg.DATASETS.CHECK and (is_semantic or cfg.MODEL.META_ARCHITECTURE == "PanopticFPN"):
        problems += _check_same_classes({name: MetadataCatalog.get(name).get("stuff_classes") or () for name in names})
    _raise(problems)


@_shown()
def check_instance_datasets(
    train: Sequence[str],
    test: Sequence[str],
    *,
    num_classes: int | None,
    set_num_classes: str,
    mask_format: str | None,
    keypoints: bool,
) -> None:
    """Check data sets, by their names, as :func:`check_datasets` does where there is no such config.

    Args:
        num_classes: of the model; None if that is not known.
        set_num_classes: how to set it, up to the number: ``"model.num_classes="``.
        mask_format: of the masks that are trained, ``"polygon"`` or ``"bitmask"``; None without masks.
        keypoints: they are trained.
    """
    _check_registered([*train, *test], REGISTER_IN_PYTHON)
    use_what_is_read(train, test)
    # By evaluators of Detectron2's.
    task = _InstanceTask(num_classes, set_num_classes, mask_format, keypoints, is_read_again=True)
    _raise(_check_instances(train, test, task, read_files=comm.get_local_rank() == 0))


def check_names(*groups: Iterable[str]) -> None:
    """Check that data sets are registered, and that their annotation files exist where they have any."""
    names = list(dict.fromkeys(name for group in groups for name in group))
    _check_registered(names, REGISTER_COCO)
    use_what_is_read(names, ())
    problems = []
    for metadata in map(MetadataCatalog.get, names):
        json_file = metadata.get("json_file")
        if json_file and not PathManager.isfile(json_file):
            problems.append(_unreadable(metadata, f"{json_file} {what_is_there(json_file)}"))
    _raise(problems)


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise DatasetError("\n".join(problems))


def _check_registered(names: Iterable[str], remedy: str) -> None:
    problems = []
    for name in dict.fromkeys(names):
        if name not in DatasetCatalog:
            near = difflib.get_close_matches(name, DatasetCatalog.list())
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            problems.append(f"The data set {name!r} is not registered.{hint} {remedy}")
    _raise(problems)


def _instance_task(cfg: CfgNode, *, eval_only: bool) -> _InstanceTask:
    node, test = _NUM_CLASSES_NODE.get(cfg.MODEL.META_ARCHITECTURE), cfg.TEST
    training = {"LOSS": test.LOSS, "BEST_METRIC": test.BEST_METRIC, "PATIENCE": test.PATIENCE > 0}
    needs = {} if eval_only else training
    needs["EXPECTED_RESULTS"] = len(test.EXPECTED_RESULTS) > 0
    return _InstanceTask(
        num_classes=cfg.MODEL[node].NUM_CLASSES if node else None,
        set_num_classes=f"MODEL.{node}.NUM_CLASSES ",
        mask_format=cfg.INPUT.MASK_FORMAT if cfg.MODEL.MASK_ON else None,
        keypoints=cfg.MODEL.KEYPOINT_ON,
        max_sizes=(longest_side(cfg, is_train=True), longest_side(cfg, is_train=False)),
        needs_objects=tuple(f"TEST.{key}" for key, is_on in needs.items() if is_on),
        is_panoptic=cfg.MODEL.META_ARCHITECTURE == "PanopticFPN",
    )


def _check_instances(train: Sequence[str], test: Sequence[str], task: _InstanceTask, *, read_files: bool) -> list[str]:
    problems: list[str] = []
    categories: dict[str, Sequence[str]] = {}
    for name in dict.fromkeys([*train, *test]):
        metadata = MetadataCatalog.get(name)
        in_file: list[str] = []
        if read_files and metadata.get("evaluator_type") == "pascal_voc":
            file_problems = check_pascal_voc(metadata)
            if file_problems:  # among them other classes than the registered ones
                problems += file_problems
                continue
        elif read_files:
            file_problems, in_file = _check_files(metadata, task, is_train=name in train, is_test=name in test)
            problems += file_problems
        categories[name] = metadata.get("thing_classes") or in_file
        if task.num_classes is not None and categories[name]:
            number = len(categories[name])
            problems += different_number(name, "categories", number, task.num_classes, task.set_num_classes)
    return problems + (_check_same_classes(categories) if read_files else [])


def _check_same_classes(classes: dict[str, Sequence[str]]) -> list[str]:
    """The model knows classes by number: under the same number all data sets must have the same."""
    known = {name: list(names) for name, names in classes.items() if names}
    first = next(iter(known), "")
    problems = []
    for other in known:
        pairs = zip(known[first], known[other])
        difference = next(((i, a, b) for i, (a, b) in enumerate(pairs) if a != b), None)
        if difference and len(known[first]) == len(known[other]):  # else the number is what is wrong
            number, a, b = difference
            problems.append(
                f"The data sets {first!r} and {other!r} have other classes: number {number}, in the order of their "
                f"ids, is {a!r} in one and {b!r} in the other; give both the same"
            )
    return problems


def _check_keypoints(cfg: CfgNode, name: str) -> list[str]:
    if not cfg.MODEL.KEYPOINT_ON:
        return []
    keypoints = MetadataCatalog.get(name).get("keypoint_names")
    if not keypoints:
        return [
            f"The data set {name!r} names no keypoints, which MODEL.KEYPOINT_ON needs: list them as "
            "keypoints of its categories, as COCO does, or set keypoint_names and keypoint_flip_map of its metadata"
        ]
    number, key = len(keypoints), "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS "
    problems = different_number(name, "keypoints", number, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, key)
    if name in cfg.DATASETS.TEST and (len(cfg.TEST.KEYPOINT_OKS_SIGMAS) or _COCO_KEYPOINTS) != number:
        problems.append(
            f"The data set {name!r} has {number} keypoints: set TEST.KEYPOINT_OKS_SIGMAS to as many numbers, how far "
            "each may be off"
        )
    return problems


def _check_stuff(cfg: CfgNode, name: str) -> list[str]:
    if cfg.MODEL.META_ARCHITECTURE != "PanopticFPN":
        return []
    number, classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, MetadataCatalog.get(name).get("stuff_classes")
    if not classes:
        return [f"The data set {name!r} has no stuff_classes in its metadata, which PanopticFPN needs: take another"]
    return different_number(name, "stuff classes", len(classes), number, "MODEL.SEM_SEG_HEAD.NUM_CLASSES ")


def _check_files(
    metadata: Metadata, task: _InstanceTask, *, is_train: bool, is_test: bool
) -> tuple[list[str], list[str]]:
    """What is wrong with the files of a data set, if anything, and its categories."""
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    # LVIS has its own way to name images, and no files but the published ones.
    if not json_file or image_root is None or metadata.get("evaluator_type") == "lvis":
        return [], []
    try:
        content = read_coco(json_file)
    except DatasetError as error:
        return [_unreadable(metadata, str(error))], []
    if task.keypoints:
        set_keypoints(metadata.name)
    is_evaluated = is_test and metadata.get("evaluator_type") in ("coco", "coco_panoptic_seg")
    use = Use(
        is_train=is_train,
        is_evaluated=is_evaluated,
        has_masks=task.mask_format is not None,
        mask_format=task.mask_format if is_train else None,
        num_keypoints=len(metadata.get("keypoint_names") or ()) if task.keypoints else 0,
        needs_objects=task.needs_objects if is_test else (),
        is_read_again=task.is_read_again and is_evaluated,
    )
    max_size = min(filter(None, compress(task.max_sizes, (is_train, is_test))), default=None)
    in_images, notes = check_image_files(content, image_root, max_size)
    notes.update(check_left_out(content, use))
    errors = Findings()
    for findings in (content.errors, check_use(content, use), in_images):
        errors.update(findings)
    if task.is_panoptic and metadata.get("stuff_classes"):
        errors.update(check_panoptic(metadata, content, is_evaluated=is_test))
    registered, in_file = metadata.get("thing_classes"), content.class_names()
    # Detectron2's loader insists on it.
    if registered and in_file and metadata.get("evaluator_type") == "coco" and list(registered) != in_file:
        errors.add("categories are not the registered ones", f"{in_file} instead of {registered}")
    for line in (*content.warnings.lines(), *content.changes.lines(), *notes.lines()):
        logger.warning("%s: %s", json_file, line)
    return _problem(metadata, errors), in_file


def _problem(metadata: Metadata, errors: Findings) -> list[str]:
    """All that is wrong with the files of a data set: one sentence, or a line for each kind."""
    lines, total = errors.lines(), sum(errors.counts.values())
    if not lines:
        return []
    where = f"{metadata.json_file} (images: {metadata.image_root})"
    head = f"The data set {metadata.name!r} has {total} problem{'s' * (total > 1)} in {where}:"
    tail = "Correct the file; DATASETS.CHECK False skips this check"
    return [f"{head} {lines[0]}. {tail}"] if len(lines) == 1 else ["\n  ".join([head, *lines, tail])]


def _unreadable(metadata: Metadata, reason: str) -> str:
    return f"The data set {metadata.name!r} cannot be read: {reason}; {how_to_get(metadata)}"
