"""A data set in COCO format, written in VOC's, YOLO's and LabelMe's: the converters' opposite, for their tests."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.mask as mask_util
import yaml
from PIL import Image

Record = dict[str, Any]


def images_of(root: Path, split: str) -> Iterator[tuple[Record, list[Record]]]:
    """Every image of a split with its annotations, which have their class's name as ``category``."""
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    annotations = defaultdict(list)
    for annotation in content["annotations"]:
        rle = annotation.get("segmentation")
        if isinstance(rle, dict) and isinstance(rle["counts"], list):
            annotation["segmentation"] = compressed(rle)
        annotations[annotation["image_id"]].append(annotation | {"category": names[annotation["category_id"]]})
    for image in content["images"]:
        yield image, annotations[image["id"]]


def compressed(rle: Record) -> Record:
    packed = mask_util.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": packed["counts"].decode("ascii")}


def write_voc(root: Path, target: Path) -> None:
    """Whole pixels from 1, crowds as difficult, splits as lists."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (target / folder).mkdir(parents=True)
    for split in ("train", "val"):
        names = []
        for image, objects in images_of(root, split):
            name = f"{split}_{Path(image['file_name']).stem}"
            names.append(name)
            shutil.copy(root / split / image["file_name"], target / "JPEGImages" / f"{name}.jpg")
            written = "".join(map(_voc_object, objects))
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            text = f"<annotation>{size}{written}</annotation>"
            (target / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")
        (target / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names))


def _voc_object(annotation: Record) -> str:
    x, y, width, height = annotation["bbox"]
    numbers = {"xmin": x + 1, "ymin": y + 1, "xmax": x + width, "ymax": y + height}
    box = "".join(f"<{tag}>{number:g}</{tag}>" for tag, number in numbers.items())
    name, difficult = escape(annotation["category"]), annotation["iscrowd"]
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def write_yolo(root: Path, target: Path, classes: list[str]) -> None:
    """``images/<split>``, ``labels/<split>`` and data.yaml; polygons of one part as such, everything else as boxes."""
    for split in ("train", "val"):
        shutil.copytree(root / split, target / "images" / split)
        (target / "labels" / split).mkdir(parents=True)
        for image, objects in images_of(root, split):
            lines = [_yolo_line(annotation, image, classes) for annotation in objects]
            file = target / "labels" / split / f"{Path(image['file_name']).stem}.txt"
            file.write_text("\n".join(lines))
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(classes))}
    (target / "data.yaml").write_text(yaml.safe_dump(content))


def is_one_polygon(annotation: Record) -> bool:
    return isinstance(annotation["segmentation"], list) and len(annotation["segmentation"]) == 1


def _yolo_line(annotation: Record, image: Record, classes: list[str]) -> str:
    sides = np.array([image["width"], image["height"]])
    if is_one_polygon(annotation):
        numbers = np.reshape(annotation["segmentation"][0], (-1, 2)) / sides
    else:
        corner, size = np.array(annotation["bbox"][:2]), np.array(annotation["bbox"][2:])
        numbers = np.stack([(corner + size / 2) / sides, size / sides])
    return " ".join([str(classes.index(annotation["category"])), *(f"{x:.6f}" for x in numbers.ravel())])


def write_labelme(root: Path, target: Path, embedded: bool) -> None:
    """A JSON file beside each image, or with it inside: polygons, those of one object as a group, and masks."""
    for split in ("train", "val"):
        (target / split).mkdir(parents=True)
        for image, objects in images_of(root, split):
            picture = root / split / image["file_name"]
            shapes = [shape for annotation in objects for shape in _labelme_shapes(annotation)]
            sides = {"imageWidth": image["width"], "imageHeight": image["height"]}
            data = base64.b64encode(picture.read_bytes()).decode() if embedded else None
            content = {"shapes": shapes, "imagePath": image["file_name"], "imageData": data, **sides}
            (target / split / f"{picture.stem}.json").write_text(json.dumps(content))
            if not embedded:
                shutil.copy(picture, target / split)


def _labelme_shapes(annotation: Record) -> Iterator[Record]:
    segmentation, common = annotation["segmentation"], {"label": annotation["category"], "flags": {}}
    if isinstance(segmentation, dict):
        yield common | labelme_mask(mask_util.decode(segmentation).astype(bool))
        return
    group = annotation["id"] if len(segmentation) > 1 else None
    for polygon in segmentation:
        points = np.reshape(polygon, (-1, 2)).tolist()
        yield common | {"shape_type": "polygon", "points": points, "group_id": group}


def labelme_mask(mask: np.ndarray) -> Record:
    """A shape of the part of a mask (H, W) that is not empty."""
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis=axis))[[0, -1]].tolist() for axis in (1, 0))
    file = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1]).save(file, "PNG")
    points = [[left, top], [right, bottom]]
    return {"shape_type": "mask", "points": points, "mask": base64.b64encode(file.getvalue()).decode()}
