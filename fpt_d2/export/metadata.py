"""What a file says of itself, for programs that have nothing but the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from detectron2.config import CfgNode

from ..config_file import without_paths

# Of the text in TorchScript's and torch.export's files; ONNX has properties.
FILE_NAME = "fpt_d2.json"


@dataclass(frozen=True)
class ExportInfo:
    """
    Attributes:
        outputs: in order.
        classes: names by number.
        pixel_order: of the image's channels, "BGR" or "RGB".
        threshold: lowest score of a detection; None for semantic segmentation.
        short_side, long_side: pixels that the file scales an image to; 0 for a short side that is left as it is.
        fpt_d2: version that exported.
        config: the model's, in YAML, without paths of the machine.
    """

    outputs: tuple[str, ...]
    classes: tuple[str, ...]
    pixel_order: str
    threshold: float | None
    short_side: int
    long_side: int
    fpt_d2: str
    config: str

    @staticmethod
    def of(cfg: CfgNode, outputs: tuple[str, ...], classes: list[str]) -> ExportInfo:
        """
        Args:
            cfg: of the model.
            outputs: names, of :attr:`.deployable.Deployable.outputs`.
            classes: names by number.
        """
        from .. import __version__

        is_retinanet = cfg.MODEL.META_ARCHITECTURE == "RetinaNet"
        threshold = cfg.MODEL.RETINANET.SCORE_THRESH_TEST if is_retinanet else cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
        return ExportInfo(
            outputs=outputs,
            classes=tuple(classes),
            pixel_order=cfg.INPUT.FORMAT,
            threshold=None if outputs == ("sem_seg",) else threshold,
            short_side=cfg.INPUT.MIN_SIZE_TEST,
            long_side=cfg.INPUT.MAX_SIZE_TEST,
            fpt_d2=__version__,
            config=without_paths(cfg).dump(),
        )

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def as_properties(self) -> dict[str, str]:
        """Text by name; what is not text is JSON."""
        values = asdict(self).items()
        return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in values}
