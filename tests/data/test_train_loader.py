"""The batches of a training: as Detectron2's, any of them first, with any number of workers."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from PIL import Image

from fpt_d2.data import TrainLoader, resumable_loader
from fpt_d2.data.random_state import random_numbers, seed_all

RECORDS = [{"image_id": i, "width": 20 + i % 3, "height": 21} for i in range(11)]
SAMPLERS = {
    "TrainingSampler": lambda: TrainingSampler(11),
    "RepeatFactorTrainingSampler": lambda: RepeatFactorTrainingSampler(torch.linspace(1, 3, 11)),
    "RandomSubsetTrainingSampler": lambda: RandomSubsetTrainingSampler(11, 0.5),
}


def draw(record: dict[str, Any]) -> dict[str, Any]:
    """A mapper whose augmentations are all random."""
    return {**record, "drawn": (np.random.rand(), random.random(), torch.rand(1).item())}


def read(
    number: int, *, start: int = 0, build: Any = resumable_loader, sampler: str = "TrainingSampler", **kwargs: Any
):
    with random_numbers(7):
        kwargs = {"total_batch_size": 3, "mapper": draw, "sampler": SAMPLERS[sampler](), **kwargs}
        loader = build(kwargs.pop("dataset", RECORDS), **kwargs)
    if start:
        loader.start = start
    return list(islice(loader, number))


def ids(batches: list[list[dict[str, Any]]]) -> list[list[int]]:
    return [[example["image_id"] for example in batch] for batch in batches]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("grouping", [False, True])
def test_images_come_in_the_order_of_detectron2(sampler: str, grouping: bool) -> None:
    kwargs = {"sampler": sampler, "aspect_ratio_grouping": grouping}
    assert ids(read(9, **kwargs)) == ids(read(9, build=build_detection_train_loader, **kwargs))


@pytest.mark.parametrize("grouping", [False, True])
def test_any_batch_can_be_the_first_with_any_number_of_workers(grouping: bool) -> None:
    batches = read(12, aspect_ratio_grouping=grouping)
    drawn = [x for batch in batches for example in batch for x in example["drawn"]]
    assert len(set(drawn)) == 12 * 3 * 3
    assert read(12, num_workers=2, aspect_ratio_grouping=grouping) == batches
    assert read(5, start=7, aspect_ratio_grouping=grouping) == batches[7:]
    assert read(5, start=7, num_workers=3, aspect_ratio_grouping=grouping) == batches[7:]


def test_each_iterator_begins_anew() -> None:
    loader = resumable_loader(RECORDS, total_batch_size=3, mapper=draw)
    assert list(islice(loader, 4)) == list(islice(loader, 4))


def test_global_random_numbers_go_on_as_without_it() -> None:
    def some() -> tuple[float, float, float]:
        return np.random.rand(), random.random(), torch.rand(1).item()

    seed_all(1, 2)
    expected = some()
    loader = iter(resumable_loader(RECORDS, total_batch_size=3, mapper=draw))
    seed_all(1, 2)
    next(loader)
    assert some() == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_share_the_images_and_draw_numbers_of_their_own(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: rank)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda data: [data, data])
    kwargs = {"total_batch_size": 4, "aspect_ratio_grouping": False}
    batches = read(4, **kwargs)
    assert [len(batch) for batch in batches] == [2] * 4
    monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda: 1 - rank)
    others = read(4, **kwargs)
    seen = [i for pair in zip(batches, others) for batch in ids(list(pair)) for i in batch]
    assert sorted(seen[:8]) == sorted(set(seen[:8]))
    drawn = [{x["drawn"] for batch in some for x in batch} for some in (batches, others)]
    assert not drawn[0] & drawn[1]


def test_images_without_a_size_are_looked_at(tmp_path: Path) -> None:
    records = [{"image_id": r["image_id"], "file_name": str(tmp_path / f"{r['image_id']}.jpg")} for r in RECORDS]
    for index, (record, known) in enumerate(zip(records, RECORDS)):
        image = Image.new("RGB", (known["width"], known["height"]))
        turned = Image.Exif()
        if index % 2:  # as a camera held upright writes it
            image, turned[0x0112] = image.transpose(Image.Transpose.TRANSPOSE), 6
        image.save(record["file_name"], exif=turned)
    assert ids(read(9, dataset=records)) == ids(read(9))
    (tmp_path / "0.jpg").write_bytes(b"")
    assert len(read(9, dataset=records)) == 9


def test_a_data_set_that_is_no_list_is_detectron2s_business() -> None:
    dataset = DatasetFromList(RECORDS)
    loader = resumable_loader(dataset, total_batch_size=3, mapper=draw)
    assert not isinstance(loader, TrainLoader)
    assert len(next(iter(loader))) == 3
