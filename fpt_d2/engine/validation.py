"""What a training can show of the test set besides its metrics: losses and pictures. Neither changes its course."""

from __future__ import annotations

import copy
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.detection_utils import build_augmentation
from detectron2.evaluation import inference_context
from detectron2.modeling import Backbone
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from ..config import SEMANTIC_SEGMENTATION
from ..data import InstanceMapper, SemSegMapper, read_image
from ..data.names import distinct_names
from ..data.random_state import random_numbers
from .inference import with_sliding_window, without_ddp


@contextmanager
def preserved_rng() -> Iterator[None]:
    """A context with random numbers of its own, the same every time."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), random_numbers(0):
        torch.manual_seed(0)  # of GPUs too
        yield


def validation_losses(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Compute the training losses on ``DATASETS.TEST``, averaged over all its images. To be called by all processes.

    Returns:
        The losses by name and ``total_loss``; nothing in all but the main process.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    num_images = 0
    # Losses put their own statistics into the event storage: one to be thrown away.
    with preserved_rng(), EventStorage(), torch.no_grad():
        model = _copy_for_losses(model)
        for inputs in _annotated_loader(cfg):
            for name, loss in model(inputs).items():
                sums[name] += loss.item() * len(inputs)
            num_images += len(inputs)
    shares = comm.gather((dict(sums), num_images))
    if not shares:
        return {}
    total = sum(number for _, number in shares)
    names = dict.fromkeys(name for share, _ in shares for name in share)
    losses = {name: sum(share.get(name, 0.0) for share, _ in shares) / total for name in names}
    return {"total_loss": sum(losses.values()), **losses}


def _copy_for_losses(model: nn.Module) -> nn.Module:
    """A copy that computes losses as in training, and features as in inference.

    A copy, because heads keep running figures too, such as RetinaNet's normaliser of its losses.
    """
    model = copy.deepcopy(without_ddp(model)).train()
    for module in model.modules():
        if isinstance(module, (Backbone, _BatchNorm, _DropoutNd)):
            module.eval()
    return model


def _annotated_loader(cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
    """The images of all of ``DATASETS.TEST``, scaled as for testing, with their annotations."""
    dicts = get_detection_dataset_dicts(
        cfg.DATASETS.TEST,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TEST if cfg.MODEL.LOAD_PROPOSALS else None,
    )
    augmentations = build_augmentation(cfg, is_train=False)
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        mapper = SemSegMapper(cfg, augmentations=augmentations)
    else:
        mapper = InstanceMapper(cfg, is_train=True, augmentations=augmentations, recompute_boxes=False)
    loader: Iterable[list[dict[str, Any]]] = build_detection_test_loader(
        dicts, mapper=mapper, num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    return loader


def put_predictions(cfg: CfgNode, model: nn.Module) -> None:
    """Put the predictions on the first ``TEST.VIS_IMAGES`` images of ``DATASETS.TEST`` into the event storage."""
    if not comm.is_main_process():
        return
    from ..visualization import draw_predictions  # matplotlib, which a training need not wait for

    model, mapper = with_sliding_window(cfg, without_ddp(model)), InstanceMapper(cfg, is_train=False)
    number, names = cfg.TEST.VIS_IMAGES, cfg.DATASETS.TEST
    named = [(name, record) for name in names for record in DatasetCatalog.get(name)[:number]][:number]
    titles = distinct_names(record["file_name"] for _, record in named)
    with preserved_rng(), inference_context(model), torch.no_grad():
        for name, record in named:
            outputs = model([mapper(record)])[0]
            picture = draw_predictions(read_image(record["file_name"], "RGB"), outputs, MetadataCatalog.get(name))
            file = record["file_name"]
            title = f"{titles[file]}{os.path.splitext(file)[1]}"
            # An image may be in two test sets, with other classes.
            tag = f"predictions/{name}/{title}" if len(names) > 1 else f"predictions/{title}"
            get_event_storage().put_image(tag, picture.transpose(2, 0, 1))
