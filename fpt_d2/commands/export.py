"""Export a trained model as one file that takes an image and returns what the demo finds, and compare the two.

--format torchscript    for torch with torchvision                                  -> model.ts
--format torch_export   the same as an exported program                             -> model.pt2
--format onnx           for onnxruntime (pip install onnx onnxruntime onnxscript)   -> model.onnx
--format compile        the backbone under torch.compile is compared; nothing is written

R-CNNs, RetinaNet and semantic segmentation; what cannot be exported is said at once. --part backbone exports the
backbone of any model (backbone.ts, backbone.pt2, backbone.onnx). A file that differs from the model is not kept, and
the status is 1. The weights are those of MODEL.WEIGHTS, else the last checkpoint in OUTPUT_DIR.

Example:
    fpt-export --config-file configs/quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml \\
        --format onnx --output exported --images photo1.jpg photo2.jpg
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cli import add_opts, exit_on_user_errors
from .common import logger, make_folder, tool_parser, users_files

FORMATS = ("torchscript", "torch_export", "onnx", "compile")


@exit_on_user_errors()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = tool_parser(__doc__)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="config of the trained model")
    parser.add_argument("--format", required=True, choices=FORMATS, help="see above")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the file goes")
    help = "the model with all that prepares its image and its results, or its backbone; default: whole"
    parser.add_argument("--part", choices=("whole", "backbone"), help=help)
    help = "photos to compare on; parts of them where they are of too few sizes; default: made-up ones"
    parser.add_argument("--images", nargs="+", default=[], metavar="FILE", help=help)
    add_opts(parser)
    args = parser.parse_args(argv)

    from detectron2.utils.logger import setup_logger

    from ..engine.inference import get_inference_config
    from ..export.formats import check_packages
    from ..export.support import check_squares, check_whole

    setup_logger(name="fpt_d2")
    check_packages(args.format)
    is_whole = (args.part or ("backbone" if args.format == "compile" else "whole")) == "whole"
    cfg = get_inference_config(args.config_file, args.opts, min_score=None)
    (check_whole if is_whole else check_squares)(cfg, args.format)
    return (_export_whole if is_whole else _export_backbone)(cfg, args, make_folder(args.output))


def _export_whole(cfg: Any, args: Namespace, folder: Path) -> int:
    from ..config import SEMANTIC_SEGMENTATION
    from ..data import read_image
    from ..engine.inference import build_predictor, class_metadata
    from ..export.whole import export_whole, of_several_sizes

    images = of_several_sizes([read_image(path, "BGR") for path in args.images], 3)
    predictor = build_predictor(cfg)
    names = class_metadata(cfg, predictor.classes)
    is_semantic = cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION
    known = names.get("stuff_classes" if is_semantic else "thing_classes") or []
    heads = {"RetinaNet": cfg.MODEL.RETINANET, SEMANTIC_SEGMENTATION: cfg.MODEL.SEM_SEG_HEAD}
    number = heads.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS).NUM_CLASSES
    classes = [*known[:number], *map(str, range(len(known), number))]  # a name for each number that the file returns
    with users_files():
        found = export_whole(cfg, predictor, args.format, folder, images=images, classes=classes)
    if not found.is_small():
        logger.error("What was exported differs too much, %s: the file is not kept", found)
        return 1
    logger.info("Exported as %s to %s. Largest difference over %d images: %s", args.format, folder, len(images), found)
    if found.objects == 0 and not is_semantic:
        logger.warning("The model found nothing in these images: give some with objects as --images")
    return 0


def _export_backbone(cfg: Any, args: Namespace, folder: Path) -> int:
    from ..engine.inference import build_predictor
    from ..export.backbone import IMAGE_SIZES, TOLERANCE, export_backbone

    with users_files():
        difference = export_backbone(build_predictor(cfg).model, args.format, folder)
    sizes = " and ".join(f"{height}x{width}" for height, width in IMAGE_SIZES)
    if difference > TOLERANCE:
        logger.error("What was exported differs by %.2g at %s: the file is not kept", difference, sizes)
        return 1
    logger.info("Exported as %s to %s. Largest difference at %s: %.2g", args.format, folder, sizes, difference)
    return 0
