"""What the names of tensors tell."""

from __future__ import annotations

import re
from collections.abc import Iterable

# The modules through which what this project adds reaches the output: where they are zero, the model is as it would be
# without.
_FUSION_MODULES = r"(?:fpn_output\d+|ufp_output\.\w+|fpt_output\.\w+)\.fuse|pyramid|bifpn"
_FUSION = re.compile(rf"(^|\.)({_FUSION_MODULES})\.")
# All that it adds to FPN and ResNet. No checkpoint from elsewhere has them.
_FPT = re.compile(rf"(^|\.)({_FUSION_MODULES}|fpt|bottom_up\.plugins)\.")
_STATISTICS = re.compile(r"\.(running_mean|running_var|num_batches_tracked)$")
_CAFFE2_GROUP_NORM = re.compile(r"(conv1|res\d\w*)_gn_s$")

_RESNET_DEPTHS: dict[tuple[tuple[int, ...], bool], int] = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}


def is_fpt(name: str) -> bool:
    """Whether a tensor belongs to what FPT, its peers and its trunks add to FPN and ResNet."""
    return _FPT.search(name) is not None


def is_fusion(name: str) -> bool:
    """Whether it is one of those by which what FPT adds reaches the model's output."""
    return _FUSION.search(name) is not None


def trunk_names(names: Iterable[str]) -> list[str]:
    """Those of the trunk, without the statistics of its norms, which Caffe2's files leave out."""
    return [n for n in _of_trunk(names) if not _STATISTICS.search(n)]


def trunk_variances(names: Iterable[str]) -> list[str]:
    """Those of the trunk that a batch norm has and a group norm does not have."""
    return [n for n in _of_trunk(names) if n.endswith(".running_var")]


def _of_trunk(names: Iterable[str]) -> list[str]:
    """Those of ``backbone.bottom_up``, or of all the backbone where it has no neck."""
    backbone = [n for n in names if n.startswith("backbone.") and not is_fpt(n)]
    return [n for n in backbone if n.startswith("backbone.bottom_up.")] or backbone


def has_caffe2_group_norm(names: Iterable[str]) -> bool:
    """Whether Caffe2's names for a trunk are those of one with group norm."""
    return any(map(_CAFFE2_GROUP_NORM.fullmatch, names))


def resnet_kind(names: Iterable[str]) -> str | None:
    """ResNet-50, or ResNet (3, 4, 5, 3) where that has no number; None without blocks named as Detectron2's."""
    blocks = [(int(m[1]), int(m[2]), m[3]) for n in names if (m := re.search(r"\bres([2-5])\.(\d+)\.(\w+)", n))]
    if not blocks:
        return None
    counts = tuple(1 + max((b for s, b, _ in blocks if s == stage), default=-1) for stage in (2, 3, 4, 5))
    depth = _RESNET_DEPTHS.get((counts, any(part == "conv3" for _, _, part in blocks)))
    return f"ResNet-{depth}" if depth else f"ResNet {counts}"
