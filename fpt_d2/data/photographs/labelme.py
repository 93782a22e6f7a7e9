"""LabelMe's JSON files, one for each image, to COCO's format.

The library reads the boxes of polygons and rectangles. The polygons themselves come from the file: the library makes
masks of whole pixels out of them, which take a byte for each pixel of the image and object.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PureWindowsPath
from reprlib import repr as short
from typing import Any

from PIL import ImageOps

from ...errors import printable
from ...paths import read_file, why
from ..images import UNDECODABLE, open_image, reason
from .converting import Layout, convert, measure
from .instances import ReadImage
from .labelme_shapes import add_shapes
from .library import load_reader
from .samples import Sample, check_kind, find_samples, splits_by_folder
from .sayings import size_problem

logger = logging.getLogger(__name__)


def prepare_labelme(
    source: Path,
    root: Path,
    *,
    classes: Sequence[str] | None = None,
    val_share: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict[str, int]]:
    """Convert LabelMe's JSON files, as :func:`.converting.convert` describes.

    Polygons, and circles as such, keep their outline; rectangles are boxes; masks become RLE. Shapes of one label and
    group are one object. Lines and points are left out, and so are images without a JSON file.

    Args:
        source: JSON files with their images where ``imagePath`` says, or of the same names, or inside. Splits are those
            of folders train, val and test.

    Raises:
        UserError: the library is not installed.
    """
    read_shapes = load_reader("labelme", "labelme_shapes_to_detections")
    taken: dict[Path, Path] = {}
    find = partial(_find, read_shapes=read_shapes, taken=taken)
    counts = convert(
        source, root, "LabelMe labels", find, classes=classes, val_share=val_share, seed=seed, overwrite=overwrite
    )
    images = {path.resolve() for sample in find_samples(source, ".json").values() for path in sample.images}
    if left_out := images.difference(taken):
        example = printable(str(min(left_out)))
        logger.warning("Left out: %d images without a JSON file, such as %s", len(left_out), example)
    return counts


def _find(source: Path, *, read_shapes: Callable[..., Any], taken: dict[Path, Path]) -> Layout:
    check_kind(source, "labelme", "JSON files of LabelMe")
    samples = find_samples(source, ".json")
    names = [name for name, sample in samples.items() if sample.labels]
    read = partial(_read, source, samples, read_shapes, taken)
    return Layout(names, read, splits_by_folder(names), source)


def _read(
    source: Path,
    samples: Mapping[str, Sample],
    read_shapes: Callable[..., Any],
    taken: dict[Path, Path],
    name: str,
) -> ReadImage:
    """The image of a JSON file, which becomes the value of its path in ``taken``, and its objects."""
    files = samples[name].labels
    image = ReadImage(files[0])
    if len(files) > 1:
        image.problems.append(("one name has more than one JSON file", " and ".join(map(str, files))))
        return image
    try:
        content = json.loads(read_file(files[0]))
    except OSError as error:
        image.problems.append(("file cannot be read", f"{files[0]} ({why(error)})"))
        return image
    except (ValueError, RecursionError) as error:
        image.problems.append(("file is not JSON", f"{files[0]} ({error})"))
        return image
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        image.problems.append(("JSON file is not LabelMe's, which has a list of shapes", str(files[0])))
        return image
    _find_image(image, content, source, samples[name].images)
    image.file_name = f"{name}{image.path.suffix}"
    if (other := taken.setdefault(image.path.resolve(), files[0])) != files[0]:
        image.problems.append(("image has two JSON files", f"{image.path} has {other} and {files[0]}"))
    if image.problems:
        return image
    said = list(map(content.get, ("imageWidth", "imageHeight")))
    image.problems += size_problem(files[0], said, image.path, image.size, image.is_turned)
    add_shapes(image, content["shapes"], files[0], read_shapes)
    return image


def _find_image(image: ReadImage, content: Mapping[str, Any], source: Path, same_name: Sequence[Path]) -> None:
    """Set the path and size of ``image``, whose path is that of the JSON file: a file, or what is embedded in it."""
    file, said = image.path, content.get("imagePath")
    # Written on Windows, it may have backslashes.
    named = [file.parent / PureWindowsPath(said).as_posix()] if isinstance(said, str) and said else []
    found = [path for path in (*named, *same_name) if os.path.isfile(path)]  # False for what cannot be a path
    inside = [path for path in found if source.resolve() in path.resolve().parents]
    if inside:
        image.path = inside[0]
        measure(image)
    elif content.get("imageData"):
        _use_embedded(image, content["imageData"])
    elif found:
        image.problems.append((f"image is not in {source}: name the folder that holds both", f"{file} has {said}"))
    else:
        image.problems.append(
            ("image is missing", f"that of {file}, which has imagePath {short(said)} and no imageData")
        )


def _use_embedded(image: ReadImage, data: object) -> None:
    try:
        with open_image(io.BytesIO(base64.b64decode(str(data), validate=True))) as opened:
            suffix = f".{(opened.format or 'png').lower()}"
            image.size = ImageOps.exif_transpose(opened).size  # all of it is decoded, and turned as Detectron2 does
            image.is_turned = image.size != opened.size
    except UNDECODABLE as error:
        image.problems.append(("imageData is not an image", f"{image.path} ({reason(error)})"))
        return
    image.save = partial(_save_embedded, image.path)
    image.path = image.path.with_suffix(suffix)


def _save_embedded(file: Path, target: Path) -> None:
    """Write what is embedded in a JSON file, which is read again: all at once would fill the memory."""
    target.write_bytes(base64.b64decode(json.loads(file.read_bytes())["imageData"]))
