"""A small set in COCO format that is right, and what the checks say of others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fpt_d2.data.checks.coco import Use, check_image_files, check_use
from fpt_d2.data.coco import read_coco
from fpt_d2.data.findings import Findings

TRAINING = Use(is_train=True, mask_format="polygon", has_masks=True)
RLE = {"size": [80, 100], "counts": [8000]}
GOOD: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "height": 80, "width": 100},
        {"id": 2, "file_name": "sub/b.jpg", "height": 80, "width": 100},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [0, 0, 10, 10], "segmentation": [[0, 0, 10, 0, 10, 10]]},
        {"id": 2, "image_id": 2, "category_id": 7, "bbox": [9.5, 0, 91, 80.4], "segmentation": RLE},
    ],
}
GOOD["annotations"][0] |= {"area": 50, "iscrowd": 0}
GOOD["annotations"][1] |= {"area": 8000, "iscrowd": 1}


def errors(content: Any, image_root: Path, use: Use = TRAINING) -> list[str]:
    """What is wrong with a file of this content, a line for each kind."""
    path = image_root.parent / "written.json"
    path.write_text(json.dumps(content))
    read, found = read_coco(str(path)), Findings()
    for findings in (read.errors, check_use(read, use), check_image_files(read, str(image_root))[0]):
        found.update(findings)
    return found.lines()
