"""From a config (``MODEL.FPT``) to the pyramid transform, and the registry of its branches.

A branch of one's own is registered under a name, says which levels it reads, and is named in ``MODEL.FPT.BRANCHES``;
``docs/extending.md`` has an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry
from torch import nn

from ..core import (
    DropBlock,
    GroundingTransformer,
    LinearGroundingTransformer,
    LocalGroundingTransformer,
    PyramidTransform,
    RenderingTransformer,
    SelfTransformer,
)
from ..core.arguments import check_argument, one_of
from ..core.similarity import SIMILARITIES
from ..errors import ConfigError
from .keys import arguments_from, check_norm, norm_factory

FPT_BRANCH_REGISTRY = Registry("FPT_BRANCH")
FPT_BRANCH_REGISTRY.__doc__ = """
Registry of the branches of the pyramid transform, by the names in ``MODEL.FPT.BRANCHES``.

A registered object is called as ``obj(cfg, channels)``, one that reads finer levels also with ``num_halvings``, log2 of
the ratio of the strides. It returns a module that is called as ``branch(target, source)`` with two
:class:`fpt_d2.core.Level` and returns a map of the target's size. :func:`reads` says which levels are its sources.
"""

# Which levels a branch may read, and the argument of PyramidTransform that makes such branches.
SOURCES = {"own": "st", "coarser": "gt", "finer": "rt"}

T = TypeVar("T", bound=Callable[..., nn.Module])


def reads(source: str) -> Callable[[T], T]:
    """Decorator of what is registered as a branch: it reads the "own" level, every "coarser" or every "finer" one."""
    check_argument("source", source, source in SOURCES, one_of(SOURCES))

    def mark(branch: T) -> T:
        branch.source = source  # type: ignore[attr-defined]
        return branch

    return mark


def build_transform(cfg: CfgNode, strides: Mapping[str, int], in_channels: int) -> PyramidTransform | None:
    """The transform of ``MODEL.FPT`` over levels of these strides and this width.

    Args:
        cfg: with the keys of :func:`fpt_d2.add_fpt_config`.
        strides: of every level by its name, fine to coarse.
        in_channels: of every level.

    Returns:
        The transform; None where ``MODEL.FPT.BRANCHES`` is empty.

    Raises:
        ConfigError: a value that is not allowed, naming its key.
    """
    fpt = cfg.MODEL.FPT
    if not fpt.BRANCHES:
        return None
    factories: dict[str, Any] = dict.fromkeys(SOURCES.values())
    for name in fpt.BRANCHES:
        if not isinstance(name, str) or name not in FPT_BRANCH_REGISTRY:
            known = one_of(known for known, _ in FPT_BRANCH_REGISTRY)
            raise ConfigError(f"MODEL.FPT.BRANCHES is {list(fpt.BRANCHES)}; allowed: any of {known}")
        branch = FPT_BRANCH_REGISTRY.get(name)
        if not hasattr(branch, "source"):
            raise ConfigError(
                f"MODEL.FPT.BRANCHES has {name!r}, which does not say what it reads: decorate it with @reads"
            )
        kind = SOURCES[branch.source]
        if factories[kind] is not None:
            raise ConfigError(
                f"MODEL.FPT.BRANCHES is {list(fpt.BRANCHES)}; allowed: one that reads {branch.source} levels"
            )
        factories[kind] = partial(branch, cfg)
    check_norm(cfg, "FPT.NORM", "FPT.BRANCH_CHANNELS")
    with arguments_from("MODEL.FPT", channels="BRANCH_CHANNELS", strides="strides of the levels"):
        return PyramidTransform(
            strides,
            in_channels,
            fpt.BRANCH_CHANNELS,
            fuse=fpt.FUSE,
            min_stride=fpt.MIN_STRIDE,
            winograd=fpt.WINOGRAD,
            use_checkpoint=fpt.CHECKPOINT,
            **factories,
        )


def build_drop_block(cfg: CfgNode) -> Callable[[], nn.Module] | None:
    """Makes the DropBlock of ``MODEL.FPT``; None where it is off."""
    fpt = cfg.MODEL.FPT
    make = partial(DropBlock, fpt.DROP_BLOCK_PROB, fpt.DROP_BLOCK_SIZE, shared=fpt.DROP_BLOCK_SHARED)
    with arguments_from("MODEL.FPT", drop_prob="DROP_BLOCK_PROB", block_size="DROP_BLOCK_SIZE"):
        make()
    return make if fpt.DROP_BLOCK_PROB > 0 else None


@FPT_BRANCH_REGISTRY.register()
@reads("own")
def st(cfg: CfgNode, channels: int) -> nn.Module:
    """The self-transformer."""
    fpt = cfg.MODEL.FPT
    with arguments_from("MODEL.FPT", num_parts="ST_NUM_PARTS", temperature="ST_TEMPERATURE", impl="ATTENTION_IMPL"):
        return SelfTransformer(
            channels,
            num_parts=fpt.ST_NUM_PARTS,
            residual=fpt.ST_RESIDUAL,
            temperature=fpt.ST_TEMPERATURE,
            qk_norm=fpt.QK_NORM,
            kv_stride=fpt.KV_STRIDE,
            max_kv_tokens=fpt.MAX_KV_TOKENS,
            norm=norm_factory(fpt.NORM),
            impl=fpt.ATTENTION_IMPL,
        )


@FPT_BRANCH_REGISTRY.register()
@reads("coarser")
def gt(cfg: CfgNode, channels: int) -> nn.Module:
    """The grounding transformer: linear where the similarity is "dot", within a square where that has a side."""
    fpt = cfg.MODEL.FPT
    pooling, norm = {"kv_stride": fpt.KV_STRIDE, "max_kv_tokens": fpt.MAX_KV_TOKENS}, norm_factory(fpt.NORM)
    mixture = {"num_parts": fpt.GT_NUM_PARTS, "similarity": fpt.GT_SIMILARITY, "qk_norm": fpt.QK_NORM}
    keys = {"num_parts": "GT_NUM_PARTS", "similarity": "GT_SIMILARITY", "square_size": "GT_SQUARE_SIZE"}
    with arguments_from("MODEL.FPT", impl="ATTENTION_IMPL", **keys):
        if fpt.GT_SQUARE_SIZE:
            known = one_of(SIMILARITIES)
            check_argument("similarity", fpt.GT_SIMILARITY, fpt.GT_SIMILARITY in SIMILARITIES, f"with a square {known}")
            return LocalGroundingTransformer(channels, square_size=fpt.GT_SQUARE_SIZE, norm=norm, **mixture)
        if fpt.GT_SIMILARITY == "dot":
            return LinearGroundingTransformer(channels, norm=norm, **pooling)
        known = one_of((*SIMILARITIES, "dot"))
        check_argument("similarity", fpt.GT_SIMILARITY, fpt.GT_SIMILARITY in SIMILARITIES, known)
        return GroundingTransformer(channels, norm=norm, impl=fpt.ATTENTION_IMPL, **mixture, **pooling)


@FPT_BRANCH_REGISTRY.register()
@reads("finer")
def rt(cfg: CfgNode, channels: int, num_halvings: int) -> nn.Module:
    """The rendering transformer."""
    fpt = cfg.MODEL.FPT
    options = {"gate": fpt.RT_GATE, "final_conv": fpt.RT_FINAL_CONV, "norm": norm_factory(fpt.NORM)}
    with arguments_from("MODEL.FPT", gate="RT_GATE"):
        return RenderingTransformer(channels, num_halvings=num_halvings, **options)
