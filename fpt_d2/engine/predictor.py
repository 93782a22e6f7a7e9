"""A trained model as a Python program wants it: image in, objects with the names of their classes out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from PIL import Image
from torch import Tensor, nn

from ..config import SEMANTIC_SEGMENTATION
from ..config_file import read_config, with_opts
from ..data.images import check_scaling, pixels_of, read_image
from ..errors import ConfigError, DatasetError, UserError
from . import hub
from .inference import build_predictor, class_metadata, ready_to_predict
from .resumption import last_checkpoint


class Predictor:
    """A trained model, called with one image at a time.

    >>> predictor = fpt_d2.Predictor("output/config.yaml", "output/model_final.pth")
    >>> instances = predictor("photo.jpg")
    >>> instances.class_names, instances.scores, instances.pred_boxes

    Args:
        config: a ``.yaml`` file, the name of a config of this project
            (``"COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"``), or a config that was read. It is not changed.
        weights: a file or an address, as ``MODEL.WEIGHTS``. By default the last checkpoint in the config's
            ``OUTPUT_DIR``, or else the config's own.
        opts: ``KEY VALUE`` pairs that override the config.
        threshold: instances with a score below it, 0 to 1, are left out; None: the config says which.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. By default the config's, or the CPU where that is not there.
        class_names: of the objects or, in a model for semantic segmentation, of the pixels. By default those of the
            config's first test set; where that is not at hand, those that a training of fpt_d2 has saved with the
            weights, or else numbers.

    Attributes:
        cfg: the config, frozen.
        metadata: names of the classes, as Detectron2's ``Visualizer`` takes them.

    Raises:
        UserError: a file that does not exist, a config or weights that are wrong, in one sentence. It is a ValueError.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | CfgNode,
        weights: str | os.PathLike[str] | None = None,
        *,
        opts: Sequence[object] = (),
        threshold: float | None = 0.5,
        device: str | torch.device | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        if threshold is not None and not (isinstance(threshold, (int, float)) and 0 <= threshold <= 1):
            raise UserError(f"threshold is {threshold!r}; allowed: a score, 0 to 1, or None for the config's")
        if isinstance(opts, (str, Mapping)) or len(opts) % 2:
            raise UserError(f"opts is {opts!r}; allowed: keys and values in turn, such as ['MODEL.DEVICE', 'cpu']")
        words = [*map(str, opts)]
        words += [] if device is None else ["MODEL.DEVICE", str(device)]
        words += ["MODEL.WEIGHTS", os.fspath(weights)] if weights else []
        is_file = isinstance(config, (str, os.PathLike))
        cfg = _read(config, words)
        if "MODEL.WEIGHTS" not in words[::2]:
            cfg.MODEL.WEIGHTS = last_checkpoint(cfg.OUTPUT_DIR) or cfg.MODEL.WEIGHTS
        self._as_read = cfg.clone()
        self.cfg = ready_to_predict(cfg, os.fspath(config) if is_file else "", min_score=threshold)
        own = None if class_names is None else self._metadata({_kinds(self.cfg)[0]: class_names})
        self._predictor = build_predictor(self.cfg)
        self.metadata = own or class_metadata(self.cfg, self._predictor.classes)

    @property
    def model(self) -> nn.Module:
        """The model, in evaluation mode, on its device."""
        model: nn.Module = self._predictor.model
        return model

    @property
    def default_predictor(self) -> DefaultPredictor:
        """Detectron2's predictor inside, as :func:`fpt_d2.visualization.explore` takes it."""
        return self._predictor

    @property
    def class_names(self) -> list[str]:
        """Of the objects or, in a model without objects, of the pixels."""
        return self._names(_kinds(self.cfg)[0])

    def __call__(self, image: np.ndarray | Image.Image | str | os.PathLike[str]) -> Instances | Tensor:
        """Predict on one image.

        Args:
            image: (H, W, 3) uint8, BGR as OpenCV reads it; a PIL image; or the path of a file.

        Returns:
            The objects, on the CPU: what Detectron2 predicts (``pred_boxes``, ``scores``, ``pred_classes``,
            ``pred_masks`` of (N, H, W), ...) and ``class_names``, N names; of a proposal network, its proposals without
            names. Of semantic segmentation the scores of each class at each pixel, (C, H, W), on the CPU.

        Raises:
            UserError: it is not an image, or cannot be read.
        """
        outputs = self.predict(image)
        if "sem_seg" in outputs and "instances" not in outputs:
            scores: Tensor = outputs["sem_seg"].cpu()
            return scores
        instances: Instances = outputs["instances" if "instances" in outputs else "proposals"].to("cpu")
        if instances.has("pred_classes"):
            names = self.class_names
            instances.set("class_names", NamesOfObjects(names[label] for label in instances.pred_classes.tolist()))
        return instances

    def predict(self, image: np.ndarray | Image.Image | str | os.PathLike[str]) -> dict[str, Any]:
        """All that the model puts out for an image, as Detectron2's ``DefaultPredictor`` returns it, on its device.

        Args and errors are those of a call.
        """
        pixels = _pixels(image)
        what = image if isinstance(image, (str, os.PathLike)) else "that was given"
        check_scaling(what, pixels, [self._predictor.aug])
        outputs: dict[str, Any] = self._predictor(pixels)
        return outputs

    def save_pretrained(
        self, folder: str | os.PathLike[str], *, repo_id: str = "", overwrite: bool = False, **card: Any
    ) -> Path:
        """Write the model as a folder for the Hugging Face Hub: weights, config, names of classes and a model card.

        The paths of your data and of your checkpoint are left out.

        Args:
            folder: made where it does not exist.
            repo_id: the name on the Hub by which the card's example loads it; by default the folder's.
            overwrite: replace files of these names in the folder. Others in it are always left as they are.
            card: what the card says besides, such as ``license="mit"`` or ``datasets=["..."]``: arguments of
                ``huggingface_hub.ModelCardData``.

        Returns:
            The folder.

        Raises:
            UserError: huggingface_hub or safetensors is not installed, the folder holds such files, or it cannot be
                written to.
        """
        if not overwrite:
            hub.check_free(Path(folder))
        names = {kind: self._names(kind) for kind in _kinds(self.cfg)}
        return hub.save(Path(folder), self._as_read, hub.inner(self.model), names, card, repo_id)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload a model of fpt_d2",
        **card: Any,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes.

        Args:
            repo_id: ``"user/name"``; made where it does not exist.
            private: whether a new repository is; by default as your account has it.
            token: by default the one that you have logged in with.
            commit_message: of the upload.
            card: as for :meth:`save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            UserError: a package is missing, the name is wrong, or the Hub refuses it or cannot be reached.
        """
        write = partial(self.save_pretrained, repo_id=repo_id, **card)
        return hub.push(write, repo_id, private=private, token=token, commit_message=commit_message)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo_id: str | os.PathLike[str],
        *,
        opts: Sequence[object] = (),
        threshold: float | None = 0.5,
        device: str | torch.device | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> Predictor:
        """Read what :meth:`save_pretrained` has written.

        Nothing in it is executed: the weights are safetensors, the config is YAML without tags, and is checked as one
        of yours is.

        Args:
            folder_or_repo_id: a folder, or ``"user/name"`` on the Hugging Face Hub.
            opts, threshold, device: as for the class.
            revision: branch, tag or commit on the Hub.
            token: for a private repository; by default the one that you have logged in with.
            cache_dir: where downloads are kept; by default the Hub's own folder.

        Raises:
            UserError: there is no such folder or repository, it cannot be fetched, or it does not hold such a model.
        """
        folder = hub.find(folder_or_repo_id, revision=revision, token=token, cache_dir=cache_dir)
        cfg, names = hub.read_config_of(folder), hub.read_names(folder)
        predictor = cls(cfg, folder / hub.WEIGHTS, opts=opts, threshold=threshold, device=device)
        predictor.metadata = predictor._metadata({kind: names[kind] for kind in _kinds(cfg)})
        return predictor

    def _names(self, kind: str) -> list[str]:
        """One for each class of the model; its number where the metadata do not have any."""
        known = self.metadata.get(f"{kind}_classes") or []
        return [known[i] if i < len(known) else str(i) for i in range(_number_of_classes(self.cfg, kind))]

    def _metadata(self, names: Mapping[str, Sequence[str]]) -> Metadata:
        """With these names by kind. Raises UserError unless there is one for each class."""
        for kind, own in names.items():
            number = _number_of_classes(self.cfg, kind)
            if isinstance(own, (str, bytes)) or not isinstance(own, Sequence):
                raise UserError(f"The names of classes are {own!r}; allowed: a list of names")
            if len(own) != number:
                raise UserError(f"There are {len(own)} names of classes, and the model has {number}: give one for each")
        classes = {f"{kind}_classes": [*map(str, own)] for kind, own in names.items()}
        return Metadata(name="__unused", **classes)


class NamesOfObjects(list[str]):
    """Names beside tensors in ``Instances``, which it may index by a number, a slice, a mask or a tensor of numbers."""

    @overload  # type: ignore[override]
    def __getitem__(self, item: int) -> str: ...

    @overload
    def __getitem__(self, item: slice | Tensor | np.ndarray | Sequence[int]) -> NamesOfObjects: ...

    def __getitem__(self, item: Any) -> str | NamesOfObjects:
        if isinstance(item, (int, np.integer)):
            return super().__getitem__(int(item))
        if isinstance(item, Tensor):
            item = item.cpu().numpy()
        picked = np.arange(len(self))[item]
        return NamesOfObjects(super(NamesOfObjects, self).__getitem__(int(i)) for i in np.atleast_1d(picked))


def _read(config: str | os.PathLike[str] | CfgNode, opts: Sequence[str]) -> CfgNode:
    if isinstance(config, CfgNode):
        return with_opts(config, opts)
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigError(
            f"The config is a {type(config).__name__}; allowed: the path or the name of a .yaml file, or a CfgNode"
        )
    return read_config(os.fspath(config), opts)


def _kinds(cfg: CfgNode) -> tuple[str, ...]:
    """Of what classes the model has: objects, pixels, or both. The first is what a call returns."""
    kinds = {SEMANTIC_SEGMENTATION: ("stuff",), "PanopticFPN": ("thing", "stuff")}
    return kinds.get(cfg.MODEL.META_ARCHITECTURE, ("thing",))


def _number_of_classes(cfg: CfgNode, kind: str) -> int:
    if kind == "stuff":
        return int(cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    return int((cfg.MODEL.RETINANET if cfg.MODEL.META_ARCHITECTURE == "RetinaNet" else cfg.MODEL.ROI_HEADS).NUM_CLASSES)


def _pixels(image: np.ndarray | Image.Image | str | os.PathLike[str]) -> np.ndarray:
    """(H, W, 3) uint8, BGR. Raises UserError if it is anything else."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, "BGR")
    if isinstance(image, Image.Image):
        return pixels_of(image, "BGR")
    if not isinstance(image, np.ndarray):
        kind = "a tensor" if isinstance(image, torch.Tensor) else f"a {type(image).__name__}"
        raise DatasetError(f"The image is {kind}; allowed: (H, W, 3) uint8 of numpy in BGR, a PIL image, or a path")
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        gray = ": cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) makes one of gray" if image.ndim == 2 else ""
        raise DatasetError(f"The image has the shape {image.shape}; allowed: (H, W, 3), BGR{gray}")
    if image.dtype != np.uint8:
        raise DatasetError(f"The image is of {image.dtype}; allowed: uint8, 0 to 255, as OpenCV and PIL read images")
    return image
