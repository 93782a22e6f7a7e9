"""Detectron2's checkpointer with a report, and an error where it would go on in silence."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from torch import Tensor, nn

from ..errors import WeightsError
from .convert import convert_resnet, from_pickle, from_pycls, is_torchvision_resnet, rename_modules
from .files import find_weights, read_weights, weights_by_name
from .finite import not_finite
from .library import fit_library
from .names import has_caffe2_group_norm, is_fpt, is_fusion
from .origin import input_warning
from .report import LoadReport

logger = logging.getLogger(__name__)


class FPTCheckpointer(DetectionCheckpointer):
    """Load any checkpoint that Detectron2 can load, and say what of it was used.

    Also takes the weights of torchvision's and timm's ResNets as they are, those of any of their models for a trunk
    made of it, and those that come with a Python package (:mod:`.packages`). Files are read without executing what they
    hold; see :func:`.files.read_weights`.
    """

    _source = ""

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        whole: bool = False,
        input_format: str = "",
        **checkpointables: Any,
    ) -> None:
        """As in Detectron2, and:

        Args:
            whole: the model is going to predict, not to be trained: weights that lack any of it are an error.
            input_format: the order of the channels that the model is fed with, "RGB" or "BGR". Where it is "", that is
                checked for the models that know it.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self._whole, self._input_format = whole, input_format

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in Detectron2, but WeightsError is raised if the file does not exist, is damaged or does not hold weights;
        if they are of another trunk, norm or width; or with ``whole``, if they lack a part of the model.
        """
        self._source = path
        if path:
            find_weights(path)
        try:
            extras: dict[str, Any] = super().load(path, *args, **kwargs)
            return extras
        finally:
            self._parsed_url_during_load = None  # Detectron2 leaves it behind when loading fails

    def _load_file(self, filename: str) -> dict[str, Any]:
        # Detectron2 reads these two by itself, executing what they hold.
        readers = {".pkl": from_pickle, ".pyth": from_pycls}
        if reader := readers.get(os.path.splitext(filename)[1]):
            checkpoint = reader(read_weights(filename), filename)
        else:
            checkpoint = super()._load_file(filename)
        weights = weights_by_name(checkpoint["model"], filename)
        if is_torchvision_resnet(weights) and not any(".layer1." in name for name in self.model.state_dict()):
            return convert_resnet(weights)
        return fit_library(weights, self.model, self._source) or checkpoint

    def _torch_load(self, f: str) -> Any:
        content = read_weights(f)
        return content if isinstance(content, dict) else {"model": content}

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        author = checkpoint.get("__author__", "")
        if warning := input_warning(self.model, self._source, author, self._input_format):
            logger.warning(warning)
        is_folded = author == "Caffe2" and not has_caffe2_group_norm(checkpoint["model"])
        if checkpoint.pop("matching_heuristics", False):
            checkpoint["model"] = self._match_names(checkpoint["model"], caffe2=author == "Caffe2")
        weights = checkpoint["model"] = rename_modules(checkpoint["model"], self.model.state_dict())
        incompatible = super()._load_model(checkpoint)
        self._report(weights, incompatible, is_folded=is_folded)
        return incompatible

    def _match_names(self, weights: dict[str, Any], *, caffe2: bool) -> dict[str, Tensor]:
        """Detectron2's matching by the ends of names, from which FPT's modules are kept out: they have a full name."""
        self._convert_ndarray_to_tensor(weights)
        model = {name: weight for name, weight in self.model.state_dict().items() if not is_fpt(name)}
        matched: dict[str, Tensor] = align_and_update_state_dicts(model, weights, c2_conversion=caffe2)
        for name in [n for n in matched if n not in model]:
            # Left over because its shape differs: under its full name it is reported so.
            if len(full := [m for m in model if m.endswith(f".{name}") and m not in matched]) == 1:
                matched[full[0]] = matched.pop(name)
        return matched

    def _report(self, weights: Collection[str], incompatible: Any, *, is_folded: bool) -> None:
        mismatched, state = incompatible.incorrect_shapes, self.model.state_dict()
        differing = {name for name, _, _ in mismatched}
        accounted = {*weights, *incompatible.missing_keys, *differing}
        report = LoadReport(
            source=self._source,
            loaded=[name for name in state if name in weights],
            missing=[name for name in incompatible.missing_keys if name not in differing],
            unexpected=list(incompatible.unexpected_keys),
            mismatched=mismatched,
            made_up=[name for name in state if name not in accounted],
            is_folded=is_folded,
        )
        odd = len(report.missing) > len(report.new) or report.unexpected or mismatched
        logger.log(logging.WARNING if odd else logging.INFO, "%s", report)
        report.check()
        if wrong := not_finite(self.model):
            raise WeightsError(
                f"{self._source} holds weights that are not finite ({len(wrong)} tensors, the first {wrong[0]}): the "
                "training that wrote it had diverged; give an earlier checkpoint, or other weights"
            )
        if self._whole:
            report.check_whole(is_idle=not any(weight.any() for name, weight in state.items() if is_fusion(name)))

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """The report has said it."""
