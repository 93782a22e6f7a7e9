"""Batches for training that are a function of the seed, the iteration and the process alone.

Detectron2's loader starts from the beginning when a training is resumed, and its augmentations depend on the number of
data workers. This one has the same samplers, mappers and groups of images, but forms its batches from indices in the
main process, so that those of the iterations before can be passed over without reading an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, TypeAlias

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader, get_detection_dataset_dicts
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from ..signals import end_with_parent
from .checks.image_files import header_size
from .images import UNDECODABLE
from .mapper import build_train_mapper
from .random_state import random_numbers

Record: TypeAlias = "dict[str, Any]"
Batches: TypeAlias = "Iterable[list[Record]]"

# Options of PyTorch's DataLoader that are about its workers, not about the batches.
_OF_WORKERS = ("multiprocessing_context", "persistent_workers", "pin_memory", "prefetch_factor", "timeout")


def build_train_loader(cfg: CfgNode, mapper: Callable[[Record], Record] | None = None) -> Batches:
    """Detectron2's ``build_detection_train_loader``, resumable; by default with the mapper that the model needs."""
    records = get_detection_dataset_dicts(
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    return resumable_loader(
        records,
        cfg,
        mapper=mapper or build_train_mapper(cfg),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
    )


def resumable_loader(
    dataset: Any, *cfg: CfgNode, num_workers: int = 0, aspect_ratio_grouping: bool = True, **arguments: Any
) -> Batches:
    """Detectron2's ``build_detection_train_loader``, with its arguments, resumable where ``dataset`` is a list."""
    options = {name: arguments.pop(name) for name in _OF_WORKERS if name in arguments}
    build = partial(build_detection_train_loader, *cfg, dataset=dataset, **arguments)
    if not isinstance(dataset, list):
        batches: Batches = build(num_workers=num_workers, aspect_ratio_grouping=aspect_ratio_grouping, **options)
        return batches
    # For the sampler and the mapped records in it.
    loader = build(num_workers=0, aspect_ratio_grouping=False)
    groups: list[bool | str] = _landscapes(dataset) if aspect_ratio_grouping else [False] * len(dataset)
    examples, batch_size = loader.dataset, loader.batch_size
    return TrainLoader(
        examples.dataset, examples.sampler, groups, batch_size, num_workers, loader.collate_fn, **options
    )


def _landscapes(records: list[Record]) -> list[bool | str]:
    """Of each record whether its image is wider than high, or if it has no size, the file that tells."""
    has_size = [record.get("width") is not None and record.get("height") is not None for record in records]
    return [
        record["width"] > record["height"] if known else str(record.get("file_name", ""))
        for record, known in zip(records, has_size)
    ]


class TrainLoader:
    """Endless batches, of which any can be the first.

    Attributes:
        start: number of batches that the next iterator passes over.
        num_records: size of the data set.
    """

    def __init__(
        self,
        dataset: Dataset[Record],
        sampler: Sampler[int],
        groups: list[bool | str],
        batch_size: int,
        num_workers: int,
        collate_fn: Callable[[list[Record]], Any],
        **options: Any,
    ) -> None:
        """
        Args:
            dataset: maps an index to an example, with random numbers of numpy, Python or PyTorch.
            sampler: endless indices of this process, the same from each iterator.
            groups: of each record whether it is a landscape, or the image file that tells. The examples of a batch are
                all landscapes or all not.
            batch_size: number of examples in a batch.
            num_workers: processes that map examples; with 0, this one does.
            collate_fn: makes of a list of examples what is yielded.
            options: further ones of PyTorch's DataLoader, which maps examples one by one: ``prefetch_factor`` is the
                number of examples that each worker has ready.

        Raises:
            ValueError: the DataLoader does not take the options.
        """
        self.dataset, self.start, self.num_records = dataset, 0, len(groups)
        self._sampler, self._groups, self._batch_size = sampler, groups, batch_size
        self._num_workers, self._collate = num_workers, collate_fn
        self._seed = comm.shared_random_seed()
        # Two batches ahead, as Detectron2; with many workers two examples of each.
        ahead = max(2, math.ceil(2 * batch_size / num_workers)) if num_workers else None
        self._options = {"prefetch_factor": ahead, **options}
        self._examples(iter(()))  # which refuses options without having started a worker

    def __iter__(self) -> Iterator[Any]:
        examples = iter(self._examples(self._order()))
        while batch := list(islice(examples, self._batch_size)):  # a sampler of one's own may end
            yield self._collate(batch)

    def _examples(self, order: Iterator[Any]) -> DataLoader[Any]:
        return DataLoader(
            _Examples(self.dataset),
            batch_size=None,
            sampler=order,
            num_workers=self._num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # its own: the first step would else draw other numbers than it does later
            **self._options,
        )

    def _order(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The index of each example, and the key of its random numbers."""
        rank = comm.get_rank()
        for number, batch in enumerate(islice(self._batches(), self.start, None), self.start):
            for position, index in enumerate(batch):
                yield index, (self._seed, rank, number, position)

    def _batches(self) -> Iterator[list[int]]:
        buckets: dict[bool, list[int]] = {False: [], True: []}
        for index in self._sampler:
            group = self._groups[index]
            if isinstance(group, str):
                group = self._groups[index] = _is_landscape(group)
            buckets[group].append(index)
            if len(buckets[group]) == self._batch_size:
                yield buckets[group]
                buckets[group] = []


def _is_landscape(path: str) -> bool:
    with suppress(*UNDECODABLE):  # which the mapper is going to say
        width, height = header_size(path)
        return width > height
    return False


class _Examples(Dataset[Record]):
    """The examples of a data set by index and key of the random numbers."""

    def __init__(self, dataset: Dataset[Record]) -> None:
        self._dataset = dataset

    def __getitem__(self, place: tuple[int, tuple[int, ...]]) -> Record:
        index, key = place
        with random_numbers(*key):
            return self._dataset[index]


def _as_it_is(example: Any) -> Any:
    return example


def _start_worker(number: int) -> None:
    end_with_parent()
