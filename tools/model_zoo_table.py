#!/usr/bin/env python
"""Write the tables of MODEL_ZOO.md anew: every config with its parameters and GFLOPs, counted by analyze_model.py.

Example:
    python tools/model_zoo_table.py                # some minutes; nothing is computed but shapes
    python tools/model_zoo_table.py --only         # new configs alone
    python tools/model_zoo_table.py --only paper   # these too
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

from analyze_model import measure
from detectron2.config import CfgNode
from omegaconf import DictConfig
from tabulate import tabulate
from tqdm import tqdm

from fpt_d2 import model_zoo
from fpt_d2.config import SEMANTIC_SEGMENTATION

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "MODEL_ZOO.md"
# What cannot be built here, for lack of a package or of Detectron2's compiled operators, has its parameters from there.
PARAMETERS = ROOT / "tests" / "modeling" / "parameters.json"
BEGIN, END = "<!-- tables: python tools/model_zoo_table.py -->", "<!-- end of tables -->"

TRAIN = "python train_net.py --num-gpus 8 --config-file configs/{folder}/NAME.yaml"
LAZY = "python tools/lazyconfig_train_net.py --num-gpus 8 --config-file configs/{folder}/NAME.py"
SECTIONS = {
    "COCO-Detection": "Boxes on COCO: Faster R-CNN, RetinaNet, FCOS, RPN",
    "COCO-InstanceSegmentation": "Masks on COCO: Mask R-CNN, PointRend",
    "COCO-Keypoints": "Keypoints on COCO: Keypoint R-CNN",
    "COCO-PanopticSegmentation": "Panoptic segmentation on COCO",
    "Cityscapes-SemanticSegmentation": "Semantic segmentation on Cityscapes",
    "ADE20K-SemanticSegmentation": "Semantic segmentation on ADE20K",
    "LIP-SemanticSegmentation": "Semantic segmentation on LIP",
    "VOC12-SemanticSegmentation": "Semantic segmentation on Pascal VOC 2012",
    "Misc": "Other trunks, necks and heads, on COCO",
    "quick_schedules": "On generated data, on the CPU",
}
# What the paper reports for the model of a config: box AP, mask AP on COCO.
PAPER = {
    "COCO-InstanceSegmentation/mask_rcnn_R_50_BFP_paper.yaml": "31.6, 29.9 (val)",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_paper.yaml": "38.0, 36.8 (val)",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPT_paper.yaml": "41.6, 38.6; with all tricks 42.6, 40.3 (test-dev)",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_NL_FPT_paper.yaml": "42.0, 39.5 (test-dev)",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_GC_FPT_paper.yaml": "42.5, 40.3 (test-dev)",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_AA_FPT_paper.yaml": "42.1, 40.1 (test-dev)",
}
# And its mIoU by head, of models with the depth of whose trunk it is not known here.
PAPER_OF_SECTION = {
    "Cityscapes-SemanticSegmentation": "UFP + OC 80.6, PPM + FPT 80.4, ASPP + FPT 80.7, UFP + FPT 82.2; in its "
    "ablation on the validation set, UFP 79.1 and UFP + FPT 81.7",
    "ADE20K-SemanticSegmentation": "UFP + OC 44.7, PPM + FPT 44.8, ASPP + FPT 45.2, UFP + FPT 45.9",
    "LIP-SemanticSegmentation": "UFP + OC 54.5, PPM + FPT 54.2, ASPP + FPT 54.4, UFP + FPT 56.2",
    "VOC12-SemanticSegmentation": "UFP + OC 83.2, PPM + FPT 83.2, ASPP + FPT 83.1, UFP + FPT 85.0",
}
# What training a config as it is gave, with its own seed; APs are COCO's, from 0 to 100.
HERE = {
    "quick_schedules/cascade_mask_rcnn_R_18_FPT_quickstart.yaml": "box AP 63.7, AP50 88.6; mask AP 57.0, AP50 87.4",
    "quick_schedules/cascade_rcnn_R_18_FPT_quickstart.yaml": "box AP 63.8, AP50 89.9",
    "quick_schedules/faster_rcnn_R_18_FPT_quickstart.yaml": "box AP 43.3, AP50 78.8",
    "quick_schedules/fcos_R_18_FPT_quickstart.py": "box AP 51.2, AP50 81.8",
    "quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml": "box AP 46.2, AP50 79.3; keypoint AP 20.2, AP50 51.7",
    "quick_schedules/mask_rcnn_R_18_FPN_quickstart.yaml": "box AP 46.5, AP50 83.5; mask AP 46.7, AP50 82.1",
    "quick_schedules/mask_rcnn_R_18_FPT_quickstart.yaml": "box AP 46.7, AP50 84.1; mask AP 47.6, AP50 82.6",
    "quick_schedules/panoptic_fpt_R_18_quickstart.yaml": "PQ 39.2 (things 61.2, stuff 6.1); box AP 41.9, AP50 79.9; "
    "mask AP 42.6, AP50 78.8",
    "quick_schedules/pointrend_rcnn_R_18_FPT_quickstart.yaml": "box AP 44.6, AP50 81.3; mask AP 52.4, AP50 81.7",
    "quick_schedules/retinanet_R_18_FPT_quickstart.yaml": "box AP 49.1, AP50 83.9",
    "quick_schedules/rpn_R_18_FPT_quickstart.yaml": "recall of 100 proposals: AR@100 32.9",
    "quick_schedules/ufp_R_50_quickstart.yaml": "mIoU 67.8, IoU-square by star 31.5, "
    "IoU-square by cross 14.9 (means of 3 seeds)",
    "quick_schedules/ufp_fpt_R_50_quickstart.yaml": "mIoU 82.4, IoU-square by star 80.0, "
    "IoU-square by cross 79.5 (means of 3 seeds)",
}
UNTRAINED = "not trained here"


class Row(NamedTuple):
    """A model of the zoo."""

    files: list[str]
    # The image's size, parameters and GFLOPs, as they stand in the table.
    measured: list[str]

    def cells(self) -> list[str]:
        links = " ".join(f"[{Path(file).suffix[1:]}](configs/{file})" for file in self.files)
        figure = next((PAPER[file] for file in self.files if file in PAPER), "")
        return [f"`{Path(self.files[0]).stem}` {links}", *self.measured, figure, HERE.get(self.files[0], UNTRAINED)]


def config_files() -> list[list[str]]:
    """The files of each model in ``configs/``: YAML first, where there is a lazy config of the same name too."""
    root = ROOT / "configs"
    found: dict[str, list[str]] = {}
    for path in sorted(root.glob("*/*"), key=lambda path: (path.parent, path.stem, path.suffix != ".yaml")):
        if path.suffix in (".yaml", ".py") and path.parent.name in SECTIONS and not path.stem.startswith("Base-"):
            file = path.relative_to(root).as_posix()
            found.setdefault(file.rsplit(".", 1)[0], []).append(file)
    return list(found.values())


def measure_row(files: list[str]) -> Row:
    cfg = model_zoo.get_config(files[0])
    if isinstance(cfg, DictConfig):
        cfg.train.device = "cpu"
    else:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.TRUNK.PRETRAINED", False])
    size = image_size(cfg)
    try:
        cost = measure(files[0], cfg, *size)
        parameters, gflops = cost.parameters, f"{cost.total / 1e9:.1f}"
    except (ValueError, RuntimeError, ImportError) as error:
        print(f"{files[0]}: {error}", file=sys.stderr)
        parameters, gflops = json.loads(PARAMETERS.read_text())[files[0]]["total"], "–"
    return Row(files, [f"{size[0]} × {size[1]}", f"{parameters / 1e6:.1f}", gflops])


def read_rows(page: str) -> dict[str, list[str]]:
    """What has been measured, by the first file of its row."""
    found = {}
    for line in page.splitlines():
        if match := re.match(r"\| `.*?\]\(configs/(.+?)\)", line):
            found[match[1]] = [cell.strip() for cell in line.strip("|").split("|")][1:4]
    return found


def image_size(cfg: Union[CfgNode, DictConfig]) -> tuple[int, int]:
    """Of what the model is tested on; for semantic segmentation the crop that it is trained on."""
    if isinstance(cfg, DictConfig):
        resize = cfg.dataloader.test.mapper.augmentations[0]
        return resize.short_edge_length, resize.max_size
    inputs = cfg.INPUT
    if cfg.MODEL.META_ARCHITECTURE == SEMANTIC_SEGMENTATION and inputs.CROP.TYPE.startswith("absolute"):
        return tuple(inputs.CROP.SIZE)
    return inputs.MIN_SIZE_TEST, inputs.MAX_SIZE_TEST


def to_markdown(rows: Iterable[Row]) -> str:
    """A table for each folder, with the commands that train what is in it."""
    rows, parts = list(rows), []
    for folder, title in SECTIONS.items():
        own = [r for r in rows if r.files[0].startswith(f"{folder}/")]
        commands = [
            command.format(folder=folder)
            for command, suffix in ((TRAIN, ".yaml"), (LAZY, ".py"))
            if any(file.endswith(suffix) for r in own for file in r.files)
        ]
        if folder == "quick_schedules":
            commands = [command.replace(" --num-gpus 8", "") for command in commands]
        parts += [f"### {title}", "```bash\n" + "\n".join(commands) + "\n```"]
        if folder in PAPER_OF_SECTION:
            parts.append(f"The paper, mIoU, of trunks whose depth is not known here: {PAPER_OF_SECTION[folder]}.")
        headers = ["config", "image", "params (M)", "GFLOPs", "paper", "here"]
        parts.append(tabulate([r.cells() for r in own], headers, tablefmt="github", disable_numparse=True))
    return "\n\n".join(parts)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="*", metavar="TEXT", help="measure new configs and those with one of these in their name"
    )
    args = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    known = {} if args.only is None else read_rows(page)
    rows = []
    for files in tqdm(config_files(), unit="config", disable=None):
        is_known = files[0] in known and not any(text in files[0] for text in args.only)
        rows.append(Row(files, known[files[0]]) if is_known else measure_row(files))
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{to_markdown(rows)}\n\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
