"""Semantic predictions as files: PNGs of label ids, as a benchmark's server takes them, and pictures to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from ..data.images import read_image
from ..data.names import distinct_names

LABEL_FOLDER, OVERLAY_FOLDER = "sem_seg_labels", "sem_seg_overlays"


class SemSegResults(DatasetEvaluator):
    """Write the prediction on every image ``x.jpg`` as ``sem_seg_labels/x.png`` and ``sem_seg_overlays/x.png``.

    The first is of the size of the image, with the data set's own label ids where its metadata have
    ``stuff_dataset_id_to_contiguous_id``, else class indices. For Cityscapes that is the format of its server and of
    ``cityscapesscripts``. Files of an earlier evaluation are replaced. Both folders are in ``output_folder``.
    """

    def __init__(self, dataset_name: str, output_folder: str) -> None:
        self._metadata = MetadataCatalog.get(dataset_name)
        self._names = distinct_names(record["file_name"] for record in DatasetCatalog.get(dataset_name))
        self._label_ids = _label_ids(self._metadata)
        self._labels, self._overlays = Path(output_folder, LABEL_FOLDER), Path(output_folder, OVERLAY_FOLDER)

    def reset(self) -> None:
        for folder in (self._labels, self._overlays):
            folder.mkdir(parents=True, exist_ok=True)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        from ..visualization import draw_predictions  # matplotlib, which a training need not wait for

        for record, output in zip(inputs, outputs):
            name = f"{self._names[record['file_name']]}.png"
            classes = output["sem_seg"].argmax(dim=0).cpu().numpy()
            Image.fromarray(self._label_ids[classes]).save(self._labels / name)
            picture = draw_predictions(read_image(record["file_name"], "RGB"), output, self._metadata)
            Image.fromarray(picture).save(self._overlays / name)

    def evaluate(self) -> None:
        """Nothing is measured."""


def _label_ids(metadata: Metadata) -> np.ndarray:
    """(K,), the label id of every class."""
    ids = {index: label for label, index in (metadata.get("stuff_dataset_id_to_contiguous_id") or {}).items()}
    label_ids = [ids.get(index, index) for index in range(len(metadata.stuff_classes))]
    return np.array(label_ids, dtype=np.uint8 if max(label_ids) < 256 else np.uint16)
