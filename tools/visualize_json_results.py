#!/usr/bin/env python
"""Draw predictions in COCO's results format, as evaluation leaves them in inference/, beside the ground truth.

Example:
    python tools/visualize_json_results.py --input output/quickstart/inference/coco_instances_results.json \\
        --output drawn/ --dataset fpt_shapes_val
    python tools/visualize_json_results.py --input ... --output drawn/ --config-file my.yaml   # its DATASETS.TEST
"""

import argparse
import json
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.logger import setup_logger
from detectron2.utils.visualizer import GenericMask, Visualizer
from PIL import Image
from tqdm import tqdm

from fpt_d2.data import check_names, register_from_config
from fpt_d2.engine import read_config
from fpt_d2.engine.command import add_confidence_threshold, add_num_images, add_opts, exit_on_user_errors

logger = logging.getLogger("fpt_d2.tools")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, metavar="JSON", help="the results, e.g. coco_instances_results.json")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for one picture of each image")
    parser.add_argument("--dataset", metavar="NAME", help="a registered data set (default: the first of DATASETS.TEST)")
    parser.add_argument("--config-file", metavar="FILE", help="config that names, and registers, the data set")
    add_num_images(parser, default=20)
    add_confidence_threshold(parser)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    setup_logger(name="fpt_d2")
    name = _find_dataset(args)
    by_image = read_results(args.input)
    records = [r for r in DatasetCatalog.get(name) if r["image_id"] in by_image][: args.num_images]
    if not records:
        raise ValueError(f"No image of {name!r} is in {args.input}: name the data set that it was made on")
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    for record in tqdm(records, unit="image"):
        results = [x for x in by_image[record["image_id"]] if x["score"] >= args.confidence_threshold]
        picture = draw(record, results, MetadataCatalog.get(name))
        Image.fromarray(picture).save(folder / f"{Path(record['file_name']).stem}.jpg")
    logger.info("Wrote %d pictures to %s", len(records), folder)
    return 0


def _find_dataset(args: argparse.Namespace) -> str:
    name = args.dataset
    if args.config_file:
        cfg = read_config(args.config_file, args.opts)
        register_from_config(cfg)
        name = name or next(iter(cfg.DATASETS.TEST), None)
    if not name:
        raise ValueError("No data set is given: add --dataset NAME, or --config-file with DATASETS.TEST")
    check_names([name])
    return name


def read_results(path: str) -> dict[Any, list[dict[str, Any]]]:
    """Read a file in COCO's results format; its records by image.

    Raises:
        ValueError: it is something else.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"--input {path} is no JSON ({error})") from error
    needed = ("image_id", "category_id", "bbox", "score")
    if not isinstance(results, list) or not all(isinstance(x, dict) and all(k in x for k in needed) for x in results):
        raise ValueError(f"--input {path} is not in COCO's results format: a list of records with {', '.join(needed)}")
    by_image = defaultdict(list)
    for result in results:
        by_image[result["image_id"]].append(result)
    return dict(by_image)


def draw(record: dict[str, Any], results: Sequence[dict[str, Any]], metadata: Metadata) -> np.ndarray:
    """The results of an image, at the left, and its annotations.

    Args:
        record: of the image, in Detectron2's dataset format. results: records in COCO's.

    Returns:
        (H, 2 W, 3) RGB, uint8.
    """
    image = read_image(record["file_name"], "RGB")
    predicted = Visualizer(image, metadata).draw_instance_predictions(_to_instances(results, image.shape[:2], metadata))
    annotated = Visualizer(image, metadata).draw_dataset_dict(record)
    return np.concatenate((predicted.get_image(), annotated.get_image()), axis=1)


def _to_instances(results: Sequence[dict[str, Any]], size: tuple[int, int], metadata: Metadata) -> Instances:
    boxes = np.array([x["bbox"] for x in results], dtype=float).reshape(-1, 4)
    found = Instances(size)
    found.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    found.scores = torch.tensor([x["score"] for x in results])
    found.pred_classes = torch.tensor([_class(x["category_id"], metadata) for x in results], dtype=torch.int64)
    if results and all("segmentation" in x for x in results):
        found.pred_masks = np.stack([GenericMask(x["segmentation"], *size).mask for x in results])
    if results and all("keypoints" in x for x in results):
        found.pred_keypoints = torch.tensor([x["keypoints"] for x in results]).reshape(len(results), -1, 3)
    return found


def _class(category_id: int, metadata: Metadata) -> int:
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if ids is None and "lvis" in metadata.name:  # its categories are numbered from 1, without a gap
        return category_id - 1
    if ids is None or category_id not in ids:
        raise ValueError(f"The results have category {category_id}, which {metadata.name!r} has not")
    return ids[category_id]


if __name__ == "__main__":
    sys.exit(main())
