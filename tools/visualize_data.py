#!/usr/bin/env python
"""Draw what a model is trained on: the annotations of DATASETS.TRAIN, or the images as they leave the data loader.

The latter are scaled, flipped and cropped as the config says, so that a wrong mask format, pixel order or flip shows.

Examples:
    python tools/visualize_data.py --source annotation --output drawn/ \\
        --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml
    python tools/visualize_data.py --source dataloader --output drawn/ --num-images 50 \\
        --config-file configs/COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpt_d2.cli import add_num_images, add_opts, exit_on_user_errors
from fpt_d2.commands.common import reading, save_pictures, tool_parser
from fpt_d2.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from detectron2.config import CfgNode


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    parser.add_argument("--source", choices=["annotation", "dataloader"], required=True, help="what to draw")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config with DATASETS.TRAIN")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for one picture of each image")
    add_num_images(parser, default=20)
    add_opts(parser)
    args = parser.parse_args(argv)

    from detectron2.utils.logger import setup_logger

    from fpt_d2.config import SEMANTIC_SEGMENTATION
    from fpt_d2.config_file import read_config
    from fpt_d2.data import check_datasets, register_from_config

    setup_logger(name="fpt_d2")
    cfg = read_config(args.config_file, [*args.opts, "DATALOADER.NUM_WORKERS", "0", "DATASETS.TEST", "()"])
    register_from_config(cfg)
    if not cfg.DATASETS.TRAIN:
        raise ConfigError("DATASETS.TRAIN is empty: name the data sets to draw")
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION:
        cfg.DATASETS.CHECK = False  # it would read every mask, for a few pictures
    check_datasets(cfg)
    drawn = islice((annotations if args.source == "annotation" else loaded)(cfg), args.num_images)
    named = ((f"{i:04d}_{Path(file).stem}", picture) for i, (file, picture) in enumerate(drawn))
    save_pictures(named, args.output, args.num_images)
    return 0


def annotations(cfg: CfgNode) -> Iterator[tuple[str, np.ndarray]]:
    """Files of ``DATASETS.TRAIN`` and their annotations, drawn."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.build import filter_images_with_few_keypoints

    from fpt_d2.data import read_image
    from fpt_d2.visualization import draw_ground_truth

    for name in cfg.DATASETS.TRAIN:
        records, metadata = DatasetCatalog.get(name), MetadataCatalog.get(name)
        if cfg.MODEL.KEYPOINT_ON:
            records = filter_images_with_few_keypoints(records, 1)
        for record in records:
            file = record["file_name"]
            with reading(file):
                picture = draw_ground_truth(read_image(file, "RGB"), record, metadata)
            yield file, picture


def loaded(cfg: CfgNode) -> Iterator[tuple[str, np.ndarray]]:
    """Files and what the data loader of a training makes of them, drawn. It has no end."""
    from detectron2.data import MetadataCatalog, build_detection_train_loader
    from detectron2.data.detection_utils import convert_image_to_rgb

    from fpt_d2.data import build_train_mapper
    from fpt_d2.visualization import draw_objects

    map_record = build_train_mapper(cfg)

    def read(record: dict[str, Any]) -> Any:
        with reading(record["file_name"]):
            return map_record(record)

    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
    for example in chain.from_iterable(build_detection_train_loader(cfg, mapper=read)):
        image = convert_image_to_rgb(example["image"].permute(1, 2, 0).numpy(), cfg.INPUT.FORMAT)
        fields = example["instances"].get_fields() if "instances" in example else {}
        objects = {kind: fields.get(f"gt_{kind}") for kind in ("boxes", "masks", "keypoints")}
        classes = fields["gt_classes"].tolist() if fields else []
        yield example["file_name"], draw_objects(image, metadata, classes, sem_seg=example.get("sem_seg"), **objects)


if __name__ == "__main__":
    sys.exit(main())
