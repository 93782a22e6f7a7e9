"""What a record of an annotation file in COCO format may hold: the type and the range of each field.

Read so are 1.0 for 1, true for a crowd flag of 1, and null for masks, keypoints or an area that are not there. Numbers
in quotes, NaN, null for a number and true for a number are refused.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Strict, Tag, TypeAdapter
from pydantic import ValidationError as _ValidationError
from pydantic_core import PydanticCustomError
from typing_extensions import NotRequired, TypedDict  # that of typing is too old for pydantic before Python 3.12

Record: TypeAlias = dict[str, Any]

_LARGEST_ID = 2**63 - 1  # NumPy's, which pycocotools sorts them with
_LARGEST_FLOAT = 2**53  # up to which each whole number has a float of its own
_LARGEST_SIDE = 2**31 - 1
_LARGEST_RUN = 2**32 - 1  # of pixels that pycocotools counts


def _whole(number: float) -> int:
    if not number.is_integer():
        raise ValueError(number)
    return int(number)


def _pack(polygons: list[list[float]]) -> list[np.ndarray]:
    """A quarter of the memory."""
    lengths = [len(polygon) for polygon in polygons]
    if max(lengths) == 2 and len(lengths) > 2:
        raise _refusal(_PAIRS)
    for length in lengths:
        if length % 2:
            raise _refusal("polygon with an odd number of coordinates")
    if max(lengths) < 6 or min(lengths) == 0:
        raise _refusal("polygon is empty or has fewer than 3 points")
    return [np.array(polygon) for polygon in polygons]


def _refuse_other_forms(polygons: Any) -> Any:
    if not isinstance(polygons, list):
        raise _refusal("segmentation is neither polygons nor RLE")
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise _refusal("segmentation is not a list of polygons [[x1, y1, x2, y2, ...], ...]")
        if polygon and isinstance(polygon[0], list):
            raise _refusal(_PAIRS)
    return polygons


def _refuse_bytes(counts: Any) -> Any:
    if isinstance(counts, str) and counts[:2] in ("b'", 'b"'):
        raise _refusal("RLE counts are Python's print of bytes, b'...': write counts.decode() instead")
    return counts


def _refusal(kind: str) -> PydanticCustomError:
    # In a template braces have a meaning, in a value they have none.
    return PydanticCustomError(_OUR_OWN, "{kind}", {"kind": kind})


_OUR_OWN = "coco"
_PAIRS = "polygon is a list of points [[x, y], ...], where COCO has numbers alone, [x1, y1, x2, y2, ...]"

_IN_ORDER = Field(union_mode="left_to_right")
_Float = Annotated[float, Strict(), Field(ge=-_LARGEST_FLOAT, le=_LARGEST_FLOAT), AfterValidator(_whole)]
_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Text = Annotated[str, Strict(), Field(min_length=1)]
# The int of a union comes first, with bounds of its own: pydantic checks those in Rust, and most values are int.
_Id = Annotated[Annotated[int, Strict(), Field(ge=-_LARGEST_ID, le=_LARGEST_ID)] | _Float | _Text, _IN_ORDER]
_Side = Annotated[
    Annotated[int, Strict(), Field(gt=0, le=_LARGEST_SIDE)] | Annotated[_Float, Field(gt=0, le=_LARGEST_SIDE)],
    _IN_ORDER,
]
_Count = Annotated[
    Annotated[int, Strict(), Field(ge=0, le=_LARGEST_RUN)] | Annotated[_Float, Field(ge=0, le=_LARGEST_RUN)], _IN_ORDER
]
_Flag = Annotated[
    Annotated[int, Strict(), Field(ge=0, le=1)]
    | Annotated[bool, Strict(), AfterValidator(int)]
    | Annotated[_Float, Field(ge=0, le=1)],
    _IN_ORDER,
]
_Numbers = Annotated[list[_Number], Field(fail_fast=True)]


class Image(TypedDict):
    id: _Id
    file_name: _Text
    height: _Side
    width: _Side


class Category(TypedDict):
    id: _Id
    name: _Text
    keypoints: NotRequired[list[_Text] | None]
    skeleton: NotRequired[Any]


class _Rle(TypedDict):
    size: Annotated[list[_Side], Field(min_length=2, max_length=2)]
    counts: Annotated[_Text | Annotated[list[_Count], Field(fail_fast=True)], BeforeValidator(_refuse_bytes)]


_Polygons = Annotated[
    list[_Numbers], Field(fail_fast=True), BeforeValidator(_refuse_other_forms), AfterValidator(_pack)
]


def _kind_of_mask(value: Any) -> str:
    return "none" if value in (None, [], {}, "") else "rle" if isinstance(value, dict) else "polygons"


def _no_mask(value: Any) -> None:
    return None


_Mask = Annotated[
    Annotated[_Rle, Tag("rle")]
    | Annotated[_Polygons, Tag("polygons")]
    | Annotated[None, BeforeValidator(_no_mask), Tag("none")],
    Discriminator(_kind_of_mask),
]


class Annotation(TypedDict):
    id: _Id
    image_id: _Id
    category_id: _Id
    bbox: Annotated[list[_Number], Field(min_length=4, max_length=4)]
    area: NotRequired[Annotated[_Number, Field(ge=0)] | None]
    iscrowd: NotRequired[_Flag]
    ignore: NotRequired[Any]
    segmentation: NotRequired[_Mask]
    keypoints: NotRequired[_Numbers | None]
    num_keypoints: NotRequired[_Count | None]


# How records of each top-level key are checked, and what is said of a field that is not as it should be.
_SCHEMAS: dict[str, TypeAdapter[Any]] = {
    "images": TypeAdapter(list[Image]),
    "categories": TypeAdapter(list[Category]),
    "annotations": TypeAdapter(list[Annotation]),
}
KEYS = tuple(_SCHEMAS)
_WRONG = {
    "id": "id is neither a whole number nor text",
    "image_id": "image_id is neither a whole number nor text",
    "category_id": "category_id is neither a whole number nor text",
    "file_name": "file_name is not text",
    "height": "height is not a positive whole number",
    "width": "width is not a positive whole number",
    "name": "category name is not text",
    "keypoints": "keypoints of a category are not a list of names",
    "bbox": "box is not four numbers",
    "area": "area is not a number of at least 0",
    "iscrowd": "iscrowd is neither 0 nor 1",
    "polygons": "polygon has a coordinate that is not a number",
    "size": "RLE size is not [height, width]",
    "counts": "RLE counts are neither text nor numbers of pixels",
    "annotations/keypoints": "keypoints are not a list of numbers [x1, y1, v1, x2, y2, v2, ...]",
    "num_keypoints": "num_keypoints is not a whole number of at least 0",
}


class Problem(NamedTuple):
    """What is wrong with a field.

    Attributes:
        position: of the record in its list.
        kind: in words.
        value: of the field; ``...``, which JSON does not have, where there is none to show.
    """

    position: int
    kind: str
    value: Any


def validate(key: str, records: list[Any]) -> tuple[list[Any], list[Problem]]:
    """The records of a part of a top-level list that are as they should be, with the known fields alone, and what is
    wrong with the others."""
    schema = _SCHEMAS[key]
    try:
        return schema.validate_python(records), []
    except _ValidationError as error:
        # By record and field, since each alternative of a field has an error of its own.
        found: dict[Hashable, Problem] = {}
        for detail in error.errors(include_url=False):
            found.setdefault(detail["loc"][:2], _problem(key, detail))
    bad = {problem.position for problem in found.values()}
    return schema.validate_python([r for i, r in enumerate(records) if i not in bad]), list(found.values())


def _problem(key: str, detail: Any) -> Problem:
    position, *path = detail["loc"]
    if detail["type"] == _OUR_OWN:
        return Problem(position, detail["msg"], ...)
    if not path:
        return Problem(position, "record is not an object", ...)
    if detail["type"] == "missing":
        return Problem(position, f"record without {path[-1]}", ...)
    names = [f"{key}/{path[0]}", *(name for name in reversed(path) if isinstance(name, str)), path[0]]
    kind = next(_WRONG[name] for name in names if name in _WRONG)
    return Problem(position, kind, detail["input"])
