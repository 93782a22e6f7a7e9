"""What a checkpoint of a training has besides weights, as a schema: it may have been made by hand, or by others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import NotRequired, TypedDict  # that of typing is too old for pydantic before Python 3.12

_State = dict[str, Tensor | float | None]


class _Group(TypedDict):
    params: list[int]
    lr: float
    initial_lr: NotRequired[float]


class _Optimizer(TypedDict):
    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # type: ignore[misc]

    state: NotRequired[dict[int, _State]]
    param_groups: Annotated[list[_Group], Field(min_length=1)]


class _Steps(TypedDict):
    optimizer: _Optimizer


class _Schedule(TypedDict):
    base_lrs: list[float]
    last_epoch: int


class _Exact(TypedDict):
    course: dict[str, int]
    history: NotRequired[dict[str, tuple[bool, list[tuple[float, int]]]]]
    normalizers: NotRequired[list[list[float]]]


class _Stopped(TypedDict):
    stopped_with_patience: int


class _Hooks(TypedDict):
    """By their classes' names."""

    LRScheduler: NotRequired[_Schedule]
    ExactResumption: NotRequired[_Exact]
    EarlyStopping: NotRequired[_Stopped]


class _Trainer(TypedDict):
    """Of Detectron2's trainers; a lazy config's has its optimizer without ``_trainer``."""

    iteration: Annotated[int, Field(ge=0)]
    hooks: NotRequired[_Hooks]
    _trainer: NotRequired[_Steps]
    optimizer: NotRequired[_Optimizer]


class _Checkpoint(TypedDict):
    model: dict[Any, Any]
    trainer: _Trainer


class _Value(TypedDict):
    metric: str
    value: float


class _Best(TypedDict):
    iteration: NotRequired[int]
    best: NotRequired[_Value]


_CHECKPOINT, _BEST = TypeAdapter(_Checkpoint), TypeAdapter(_Best)


def wrong_in_checkpoint(content: Any) -> str:
    """What a checkpoint has that none of a training has, or lacks; ``""`` for one that is right."""
    return _wrong(_CHECKPOINT, content)


def wrong_in_best(content: Any) -> str:
    """The same for ``model_best.pth``."""
    return _wrong(_BEST, content)


def _wrong(schema: TypeAdapter[Any], content: Any) -> str:
    try:
        schema.validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}"
    return ""
