#!/usr/bin/env python
"""Draw what a model is trained on: the annotations of DATASETS.TRAIN, or the images as they leave the data loader.

The latter are scaled, flipped and cropped as the config says, so that a wrong mask format, pixel order or flip shows.

Examples:
    python tools/visualize_data.py --source annotation --output drawn/ \\
        --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml
    python tools/visualize_data.py --source dataloader --output drawn/ --num-images 50 \\
        --config-file configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Callable, Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog, build_detection_train_loader
from detectron2.data.build import filter_images_with_few_keypoints
from detectron2.data.detection_utils import convert_image_to_rgb, read_image
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import VisImage, Visualizer
from tqdm import tqdm

from fpt_d2.config import SEMANTIC_SEGMENTATION
from fpt_d2.data import build_train_mapper, check_datasets, register_from_config
from fpt_d2.data.labels import UNREADABLE
from fpt_d2.engine import read_config
from fpt_d2.engine.command import add_num_images, add_opts, exit_on_user_errors

logger = logging.getLogger("fpt_d2.tools")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["annotation", "dataloader"], required=True, help="what to draw")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config with DATASETS.TRAIN")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for one picture of each image")
    add_num_images(parser, default=20)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    cfg = read_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "()"])
    register_from_config(cfg)
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name the data sets to draw")
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        cfg.DATASETS.CHECK = False  # it would read every mask, for a few pictures
    check_datasets(cfg)
    pictures = (annotations if args.source == "annotation" else loaded)(cfg)
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, picture in tqdm(islice(pictures, args.num_images), total=args.num_images):
        picture.save(str(folder / f"{count:04d}_{Path(name).stem}.jpg"))
        count += 1
    logger.info("Wrote %d pictures to %s", count, folder)
    return 0


def annotations(cfg: CfgNode) -> Iterator[tuple[str, VisImage]]:
    """Files of ``DATASETS.TRAIN`` and their annotations, drawn."""
    for name in cfg.DATASETS.TRAIN:
        records = DatasetCatalog.get(name)
        if cfg.MODEL.KEYPOINT_ON:
            records = filter_images_with_few_keypoints(records, 1)
        draw = _naming_the_file(partial(_draw_annotations, metadata=MetadataCatalog.get(name)))
        for record in records:
            yield record["file_name"], draw(record)


def _draw_annotations(record: dict[str, Any], metadata: Metadata) -> VisImage:
    return Visualizer(read_image(record["file_name"], "RGB"), metadata).draw_dataset_dict(record)


def loaded(cfg: CfgNode) -> Iterator[tuple[str, VisImage]]:
    """Files and what the data loader of a training makes of them, drawn. It has no end."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    loader = build_detection_train_loader(cfg, mapper=_naming_the_file(build_train_mapper(cfg)))
    for example in chain.from_iterable(loader):
        image = convert_image_to_rgb(example["image"].permute(1, 2, 0).numpy(), cfg.INPUT.FORMAT)
        visualizer = Visualizer(image, metadata)
        if "sem_seg" in example:
            visualizer.draw_sem_seg(example["sem_seg"], alpha=0.4)
        if "instances" in example:
            _draw_instances(visualizer, example["instances"].get_fields())
        yield example["file_name"], visualizer.output


def _naming_the_file(function: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """``function`` of a record, which says whose image or labels are at fault where they cannot be read."""

    def call(record: dict[str, Any]) -> Any:
        try:
            return function(record)
        except UNREADABLE as error:
            raise ValueError(f"{record['file_name']} or its annotation cannot be read: {error}") from error

    return call


def _draw_instances(visualizer: Visualizer, fields: dict[str, Any]) -> None:
    names = visualizer.metadata.get("thing_classes") or {}
    labels = [names[c] if c < len(names) else str(c) for c in fields["gt_classes"].tolist()]
    visualizer.overlay_instances(
        labels=labels,
        boxes=fields.get("gt_boxes"),
        masks=fields.get("gt_masks"),
        keypoints=fields.get("gt_keypoints"),
    )


if __name__ == "__main__":
    sys.exit(main())
