"""What of a checkpoint went where, in a few lines; and whether that can be what was meant."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..errors import WeightsError
from .convert import is_torchvision_resnet
from .names import is_fpt, resnet_kind, trunk_names, trunk_variances

MAX_MISMATCHES = 8
# The modules of a neck whose width is one key's.
_WIDTHS = {"backbone.fpn_": "MODEL.FPN.OUT_CHANNELS", "backbone.fpt.": "MODEL.FPT.BRANCH_CHANNELS"}


@dataclass
class LoadReport:
    """Names of tensors by what became of them.

    Attributes:
        source: path or address of the weights.
        loaded: in the model and in the file.
        missing: only in the model.
        unexpected: only in the file.
        mismatched: in both, with the shapes in the file and in the model.
        made_up: only in the model, where Detectron2's frozen norm makes up for it: its running statistics.
        is_folded: the file comes from Caffe2, which folds the running statistics of a norm into its scale and shift.
    """

    source: str
    loaded: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]
    made_up: list[str] = field(default_factory=list)
    is_folded: bool = False

    @property
    def in_file(self) -> list[str]:
        return [*self.loaded, *self.unexpected, *(name for name, _, _ in self.mismatched)]

    @property
    def new(self) -> list[str]:
        """Missing by design: what FPT adds, and modules of which the file has nothing (heads over a trunk)."""
        known = {_module(name) for name in [*self.loaded, *(name for name, _, _ in self.mismatched)]}
        return [name for name in self.missing if is_fpt(name) or _module(name) not in known]

    def __str__(self) -> str:
        new = set(self.new)
        lines = {
            "loaded": _count(self.loaded),
            "new, as initialized": _count(self.new),
            "missing, as initialized": _count(name for name in self.missing if name not in new),
            "unexpected, left out": _count(self.unexpected),
            "mismatched, as initialized": self._mismatches(),
        }
        text = "\n".join(f"  {what}: {which}" for what, which in lines.items() if which)
        return f"Weights from {self.source}\n{text}"

    def _mismatches(self) -> str:
        shown = [f"{name} {a} in the file, {b} in the model" for name, a, b in self.mismatched[:MAX_MISMATCHES]]
        hidden = len(self.mismatched) - len(shown)
        return "; ".join([*shown, f"and {hidden} more"] if hidden else shown)

    def check(self) -> None:
        """Raises WeightsError if the weights are of another trunk, norm, width, kind of attention or fusion."""
        self._check_trunk()
        self._check_norm()
        self._check_width()
        self._check_attention()
        self._check_fusion()

    def _check_trunk(self) -> None:
        missing = [*self.missing, *(name for name, _, _ in self.mismatched)]
        trunk = trunk_names([*self.loaded, *missing])
        loaded = set(trunk).intersection(self.loaded)
        if not trunk:  # a model without a backbone
            return
        has, wants = resnet_kind(self.in_file), resnet_kind(trunk)
        if not loaded:
            raise WeightsError(f"Nothing of the trunk is in {self.source}: {self._strangeness(trunk)}")
        if has and wants and has != wants:
            raise WeightsError(
                f"{self.source} has a {has}, the model a {wants}: change MODEL.RESNETS.DEPTH or give other weights"
            )
        if 2 * len(loaded) < len(trunk):
            raise WeightsError(
                f"{self.source} is of another trunk, only {len(loaded)} of the {len(trunk)} tensors of this one are in "
                f"it ({self._mismatches() or f'{missing[0]} is not'}): change the config or give other weights"
            )

    def _check_norm(self) -> None:
        variances = trunk_variances([*self.loaded, *self.missing, *self.made_up])
        if variances and not self.is_folded and not set(variances).intersection(self.loaded):
            raise WeightsError(
                f"The trunk in {self.source} has no running statistics, as with group norm, and the model's norm needs "
                "them: set MODEL.RESNETS.NORM to that of the weights, e.g. GN, or give other weights"
            )

    def _check_width(self) -> None:
        for module, key in _WIDTHS.items():
            shapes = [(a, b) for name, a, b in self.mismatched if name.startswith(module) and a and b]
            widths = [(a[0], b[0]) for a, b in shapes if a[0] != b[0]]
            if widths and not any(name.startswith(module) for name in self.loaded):
                raise WeightsError(
                    f"The neck in {self.source} has the width {widths[0][0]}, the model's {widths[0][1]}: set {key} "
                    f"{widths[0][0]}, or give other weights"
                )

    def _check_attention(self) -> None:
        """The linear maps of attention have the same names and shapes with normalised query and key and without."""
        loaded = set(self.loaded)
        for names, trained in ((self.missing, False), (self.unexpected, True)):
            branches = [name.removesuffix(".logit_scale") for name in names if name.endswith(".logit_scale")]
            if any(f"{branch}.query.weight" in loaded for branch in branches):
                raise WeightsError(
                    f"{self.source} was trained with MODEL.FPT.QK_NORM {trained}, without which its attention is "
                    f"another one: set it to {trained}, or give other weights"
                )

    def _check_fusion(self) -> None:
        """With the branches concatenated a level has more convolutions that fuse them than with the branches summed."""
        mismatched = [name for name, _, _ in self.mismatched]
        strange = [n for n in (*self.missing, *self.unexpected, *mismatched) if is_fpt(n)]
        fusion = [n for n in strange if ".fuse." in n]
        if not fusion or len(fusion) < len(strange) or not any(map(is_fpt, self.loaded)):
            return
        wider = any(".fuse." in name and a[1:2] > b[1:2] for name, a, b in self.mismatched)
        trained = "concat" if wider or any(n in self.unexpected for n in fusion) else "sum"
        raise WeightsError(
            f"{self.source} was trained with MODEL.FPT.FUSE {trained}, and this model fuses its branches otherwise: "
            f"set it to {trained}, and MODEL.FPT.MIN_STRIDE as in training, or give other weights"
        )

    def check_whole(self, *, is_idle: bool) -> None:
        """Raises WeightsError if a tensor that the model predicts with is not in the file, or has another shape there.

        ``is_idle``: what FPT adds has no effect in the model as initialized, so that an FPN's weights are all it needs.
        """
        by_design = is_idle and not any(map(is_fpt, self.in_file))
        lacking = [n for n in self.missing if not (by_design and is_fpt(n)) and not n.endswith("num_batches_tracked")]
        if lacking or self.mismatched:
            reasons = [f"it lacks {_count(lacking)}"] if lacking else []
            reasons += [f"shapes differ, {self._mismatches()}"] if self.mismatched else []
            raise WeightsError(
                f"{self.source} is not the whole of this model, which would predict at random: {'; '.join(reasons)}: "
                "give the weights of a model trained with this config, or the config that they were trained with"
            )

    def _strangeness(self, trunk: list[str]) -> str:
        if is_torchvision_resnet(self.in_file):
            return "it is a torchvision ResNet, and the model has no ResNet of Detectron2's"
        return f"its tensors have names like {[*self.in_file, '(none)'][0]}, the trunk's like {trunk[0]}"


def _module(name: str) -> str:
    """``backbone.fpn_lateral`` of ``backbone.fpn_lateral3.weight``; what fuses the branches is named apart."""
    parts = name.split(".")
    module = re.sub(r"\d+$", "", ".".join(parts[:2] if len(parts) > 2 else parts[:1]))
    return f"{module}.fuse" if "fuse" in parts else module


def _count(names: Iterable[str]) -> str:
    modules = Counter(map(_module, names))
    total = sum(modules.values())
    return f"{total} tensors ({', '.join(f'{m} {n}' for m, n in modules.items())})" if total else ""
