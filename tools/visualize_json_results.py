#!/usr/bin/env python
"""Draw predictions in COCO's results format, as evaluation leaves them in inference/, beside the ground truth.

Example:
    python tools/visualize_json_results.py --input output/quickstart/inference/coco_instances_results.json \\
        --output drawn/ --dataset fpt_shapes_val
    python tools/visualize_json_results.py --input ... --output drawn/ --config-file my.yaml   # its DATASETS.TEST
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fpt_d2.cli import add_confidence_threshold, add_num_images, add_opts, exit_on_user_errors
from fpt_d2.commands.common import reading, save_pictures, tool_parser, users_files
from fpt_d2.errors import ConfigError, UserError

if TYPE_CHECKING:
    import numpy as np
    from detectron2.data import Metadata

NEEDED = ("image_id", "category_id", "bbox", "score")
DRAWN = ("image_id", "category_id", "bbox", "segmentation", "keypoints")
_LARGEST_SCORE = 1e9  # of which text can be made
_FAR = 10  # times the long side of an image, beyond which nothing is drawn


def get_parser() -> argparse.ArgumentParser:
    parser = tool_parser(__doc__)
    parser.add_argument("--input", required=True, metavar="JSON", help="the results, e.g. coco_instances_results.json")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for one picture of each image")
    parser.add_argument("--dataset", metavar="NAME", help="a registered data set (default: the first of DATASETS.TEST)")
    parser.add_argument("--config-file", metavar="FILE", help="config that names, and registers, the data set")
    add_num_images(parser, default=20)
    add_confidence_threshold(parser)
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.utils.logger import setup_logger

    from fpt_d2.data.names import distinct_names

    setup_logger(name="fpt_d2")
    name = _find_dataset(args)
    results = read_results(args.input)
    dataset = DatasetCatalog.get(name)
    records = [r for r in dataset if r["image_id"] in results][: args.num_images]
    if not records:
        raise UserError(f"No image of {name!r} is in {args.input}: name the data set that it was made on")
    metadata = MetadataCatalog.get(name)
    for record in records:
        check_drawable(args.input, results[record["image_id"]], record, metadata)
    by_score = {i: [x for x in found if x["score"] >= args.confidence_threshold] for i, found in results.items()}
    names = distinct_names(r["file_name"] for r in records)
    pictures = ((names[r["file_name"]], draw(r, by_score[r["image_id"]], metadata)) for r in records)
    save_pictures(pictures, args.output, len(records), images=(r["file_name"] for r in dataset))
    return 0


def _find_dataset(args: argparse.Namespace) -> str:
    from fpt_d2.config_file import read_config
    from fpt_d2.data import check_names, register_from_config

    name = args.dataset
    if args.config_file:
        cfg = read_config(args.config_file, args.opts)
        register_from_config(cfg)
        name = name or next(iter(cfg.DATASETS.TEST), None)
    if not name:
        raise ConfigError("No data set is given: add --dataset NAME, or --config-file with DATASETS.TEST")
    check_names([name])
    return name


def read_results(path: str) -> dict[Any, list[dict[str, Any]]]:
    """Read a file in COCO's results format; its records by image.

    Raises:
        UserError: it is something else.
    """
    from fpt_d2.data.coco.schema import validate
    from fpt_d2.paths import read_file

    with users_files():
        content = read_file(path)
    try:
        results = json.loads(content)
    except ValueError as error:
        raise UserError(f"--input {path} is not valid JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"--input {path} has lists or objects that are nested too deeply") from error
    if not isinstance(results, list):
        raise UserError(f"--input {path} is not in COCO's results format: a list of records with {', '.join(NEEDED)}")
    wrong = next((x for x in results if not _is_result(x)), None)
    if wrong is not None:
        raise UserError(
            f"--input {path} is not in COCO's results format: a record needs {', '.join(NEEDED)}, a box of 4 numbers "
            f"and a number as score, and one is {json.dumps(wrong)[:100]}"
        )
    # What is drawn has the form of annotations.
    objects, problems = validate("annotations", [{"id": 1, **{k: x[k] for k in DRAWN if k in x}} for x in results])
    if problems:
        position, kind, _ = problems[0]
        raise UserError(
            f"--input {path} is not in COCO's results format: {kind}, and one record is "
            f"{json.dumps(results[position])[:200]}"
        )
    if not results:
        raise UserError(f"--input {path} is an empty list: the model found nothing, so that there is nothing to draw")
    by_image = defaultdict(list)
    for result, read in zip(results, objects):
        by_image[read["image_id"]].append({**read, "score": result["score"]})
    return by_image


def _is_result(record: Any) -> bool:
    if not isinstance(record, dict) or not record.keys() >= set(NEEDED):
        return False
    box, score = record["bbox"], record["score"]
    is_box = isinstance(box, list) and len(box) == 4 and all(isinstance(x, (int, float)) for x in box)
    ids = record["image_id"], record["category_id"]
    is_score = isinstance(score, (int, float)) and not isinstance(score, bool) and abs(score) <= _LARGEST_SCORE
    return is_box and is_score and all(isinstance(i, (int, float, str)) for i in ids)


def check_drawable(path: str, results: list[dict[str, Any]], record: dict[str, Any], metadata: Metadata) -> None:
    """Raises UserError if a result of an image, of ``record``, is of an unknown class or does not fit the image."""
    from fpt_d2.data.coco.rle import rle_problem

    height, width = record["height"], record["width"]
    lengths = {len(result.get("keypoints") or ()) for result in results}
    for result in results:
        _class(result["category_id"], metadata)
        mask, polygons = result.get("segmentation"), []
        problem = rle_problem(mask, height, width) if isinstance(mask, dict) else None
        if isinstance(mask, list):
            polygons = [value for polygon in mask for value in polygon.tolist()]
        if max(map(abs, [*result["bbox"], *(result.get("keypoints") or ()), *polygons])) > _FAR * max(height, width):
            problem = "box, polygon or keypoints far outside the image"
        if len(lengths) > 1 or max(lengths) % 3:
            problem = "keypoints are not x, y and a score of each, as many for every object"
        if problem:
            raise UserError(
                f"--input {path} does not fit {record['file_name']} of {width} x {height} pixels: {problem}; name the "
                "data set and the annotations that it was made on"
            )


def draw(record: dict[str, Any], results: list[dict[str, Any]], metadata: Metadata) -> np.ndarray:
    """The results of an image, at the left, and its annotations.

    Args:
        record: of the image, in Detectron2's dataset format. results: records in COCO's.

    Returns:
        (H, 2 W, 3) RGB, uint8.
    """
    import numpy as np
    from detectron2.structures import BoxMode

    from fpt_d2.data import read_image
    from fpt_d2.visualization import draw_ground_truth, draw_objects

    with reading(record["file_name"]):
        image = read_image(record["file_name"], "RGB")
        annotated = draw_ground_truth(image, record, metadata)
    keypoints = [x["keypoints"] for x in results if x.get("keypoints")]
    predicted = draw_objects(
        image,
        metadata,
        [_class(x["category_id"], metadata) for x in results],
        [x["score"] for x in results],
        boxes=[BoxMode.convert(x["bbox"], BoxMode.XYWH_ABS, BoxMode.XYXY_ABS) for x in results],
        masks=[x["segmentation"] for x in results] if all(x.get("segmentation") for x in results) else None,
        keypoints=np.reshape(keypoints, (len(results), -1, 3)) if results and len(keypoints) == len(results) else None,
    )
    return np.concatenate((predicted, annotated), axis=1)


def _class(category_id: int, metadata: Metadata) -> int:
    ids = metadata.get("thing_dataset_id_to_contiguous_id")
    if ids is None and "lvis" in metadata.name:  # its categories are numbered from 1, without a gap
        return category_id - 1
    if ids is None or category_id not in ids:
        raise UserError(f"The results have category {category_id}, which {metadata.name!r} does not have")
    return ids[category_id]


if __name__ == "__main__":
    sys.exit(main())
