#!/usr/bin/env python
"""Draw a trained model's predictions beside the ground truth, for the first images of DATASETS.TEST, as one picture.

Example:
    python tools/visualize_predictions.py --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --output predictions.png
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from fpt_d2.data import register_from_config
from fpt_d2.engine.command import (
    add_confidence_threshold,
    add_num_images,
    add_opts,
    exit_on_user_errors,
    picture_path,
)
from fpt_d2.engine.inference import build_predictor, get_inference_config
from fpt_d2.visualization import Example, draw_predictions_grid

logger = logging.getLogger("fpt_d2.tools")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--output", type=picture_path, required=True, metavar="PNG", help="the picture to write")
    add_num_images(parser, default=8)
    add_confidence_threshold(parser)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    setup_logger(name="fvcore")
    cfg = get_inference_config(args.config_file, args.opts, min_score=args.confidence_threshold)
    dataset_dicts = _load_dataset(cfg)[: args.num_images]
    predictor = build_predictor(cfg)
    examples = []
    for dataset_dict in tqdm(dataset_dicts, unit="image"):
        image = read_image(dataset_dict["file_name"], format="BGR")
        examples.append(Example(image[:, :, ::-1], dataset_dict, predictor(image)))
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
    draw_predictions_grid(examples, args.output, metadata, min_score=args.confidence_threshold)
    logger.info("Wrote the predictions on %d images to %s", len(examples), args.output)
    return 0


def _load_dataset(cfg: CfgNode) -> list:
    register_from_config(cfg)
    if not cfg.DATASETS.TEST or cfg.DATASETS.TEST[0] not in DatasetCatalog:
        raise ValueError(f"DATASETS.TEST is {tuple(cfg.DATASETS.TEST)}: its first data set must be a registered one")
    return DatasetCatalog.get(cfg.DATASETS.TEST[0])


if __name__ == "__main__":
    sys.exit(main())
