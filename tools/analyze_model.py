#!/usr/bin/env python
"""Parameters and GFLOPs of models side by side, as a Markdown table.

Nothing is computed: the model runs on tensors that have shapes and no values, on an image of random noise of --size
padded as Detectron2 pads it, and torch counts the multiply-adds (one each, as Detectron2's analysis does) of every
convolution and matrix product, those inside attention included. Measured are the backbone, the RPN's head on all
levels, and the RoI heads on as many proposals and detections as the config allows; box pooling and NMS are left out.

MODEL.DEVICE, of a lazy config train.device, says for which device: attention takes another form on the CPU, with fewer
products, than on a GPU.

Examples:
    python tools/analyze_model.py --json costs.json --png costs.png     # Faster R-CNN R50 with FPN, BFP and FPT
    python tools/analyze_model.py --config-file A.yaml B.yaml --opts MODEL.FPT.MAX_KV_TOKENS 1024
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union
from unittest import mock

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import META_ARCH_REGISTRY, StandardROIHeads
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.analysis import parameter_count
from matplotlib.figure import Figure
from omegaconf import DictConfig
from tabulate import tabulate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from fpt_d2.core import chunked
from fpt_d2.engine import read_config
from fpt_d2.engine.command import add_opts, exit_on_user_errors, image_size, picture_path
from fpt_d2.engine.lazy import read_lazy_config
from fpt_d2.model_zoo import get_config_file
from fpt_d2.modeling import AdaptivePooler, fpt, ufp

BASE = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"
# Row of the default table -> the keys in which it differs from BASE, and their values.
VARIANTS: dict[str, tuple[Any, ...]] = {
    "FPN": ("MODEL.FPT.BRANCHES", []),
    "BFP": ("MODEL.FPT.BRANCHES", [], "MODEL.FPT.PYRAMID", "bfp"),
    "BiFPN": ("MODEL.BACKBONE.NAME", "build_resnet_bifpn_backbone"),
    "FPT: ST": ("MODEL.FPT.BRANCHES", ["st"]),
    "FPT: GT": ("MODEL.FPT.BRANCHES", ["gt"]),
    "FPT: RT": ("MODEL.FPT.BRANCHES", ["rt"]),
    "FPT: ST + GT": ("MODEL.FPT.BRANCHES", ["st", "gt"]),
    "FPT: ST + RT": ("MODEL.FPT.BRANCHES", ["st", "rt"]),
    "FPT: GT + RT": ("MODEL.FPT.BRANCHES", ["gt", "rt"]),
    "FPT: ST + GT + RT": (),
    "FPT over BFP": ("MODEL.FPT.PYRAMID", "bfp"),
    "FPT, 64 channels": ("MODEL.FPT.BRANCH_CHANNELS", 64),
    "FPT, exact": ("MODEL.FPT.MAX_KV_TOKENS", 0),
}
BRANCHES = ("st", "gt", "rt")


class UncountableError(ValueError):
    """A model whose multiply-adds cannot be counted here."""


class Cost(NamedTuple):
    """What a model costs; all but the parameters in multiply-adds for one image."""

    name: str
    parameters: int
    trunk: int
    # Laterals, output and fusion convolutions, top block.
    pyramid: int
    st: int
    gt: int
    rt: int
    heads: int

    @property
    def total(self) -> int:
        return sum(self[2:])


def measure(name: str, cfg: Union[CfgNode, DictConfig], height: int, width: int) -> Cost:
    """Count the parameters and the multiply-adds of a config's model for one image.

    Args:
        name: of the row.
        cfg: its MODEL.DEVICE chooses the form of attention; no such device is needed. A lazy one may be given too.
        height, width: of the image, before it is padded.

    Raises:
        UncountableError: the model has heads that are not known here, or parts that need values.
        ValueError: the config is wrong.
    """
    try:
        with _without_values(device_of(cfg)):
            model = _build(cfg).eval()
            return _measure(name, model, height, width)
    except (RuntimeError, ImportError) as error:  # of compiled code that wants values, or is not there
        reason = str(error).partition("\n")[0]
        raise UncountableError(f"{name} cannot be analyzed: {reason}") from error


def _measure(name: str, model: nn.Module, height: int, width: int) -> Cost:
    stride = max(model.backbone.size_divisibility, 1)
    image = torch.rand(1, 3, *(-(-side // stride) * stride for side in (height, width)))
    with _counter() as of_backbone:
        features = model.backbone(image)
    with _counter() as of_heads:
        _run_heads(model, features)
    heads = _macs(of_heads.get_flop_counts().get("Global", {}))
    return Cost(name, parameter_count(model)[""], **_shares(of_backbone), heads=heads)


def device_of(cfg: Union[CfgNode, DictConfig]) -> str:
    return cfg.train.device if isinstance(cfg, DictConfig) else cfg.MODEL.DEVICE


def _build(cfg: Union[CfgNode, DictConfig]) -> nn.Module:
    if isinstance(cfg, DictConfig):
        return instantiate(cfg.model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TRUNK.PRETRAINED = False  # values are of no use
    try:
        # Not build_model, which moves the model to its device: it is there.
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
    except (AssertionError, KeyError) as error:  # how Detectron2 refuses values, and names that are not registered
        reason = " ".join(map(str, error.args))
        if reason and (isinstance(error, AssertionError) or "registry" in reason):
            raise ValueError(reason) from error
        raise


@contextmanager
def _without_values(device: str) -> Iterator[None]:
    """Tensors have a shape and a device, and neither values nor memory."""
    with ExitStack() as stack:
        for module in (fpt, ufp):
            # Where an image is padded cannot be read off it without values; here it counts as image, as the rest.
            stack.enter_context(mock.patch.object(module, "level_masks", lambda *_: None))
        stack.enter_context(mock.patch("fpt_d2.modeling.trunks.resnet.padding_mask", lambda *_: None))
        # Looks at what it draws.
        stack.enter_context(mock.patch.object(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor))
        # The same products in one step, not in thousands.
        stack.enter_context(mock.patch.object(chunked, "step_size", lambda batch, queries, *_: (batch, queries)))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(torch.device(device))
        stack.enter_context(torch.no_grad())
        yield


def _counter() -> FlopCounterMode:
    """Torch's counter, which lacks the attention kernel of the CPU."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)})


def _run_heads(model: nn.Module, features: Mapping[str, Tensor]) -> None:
    """Everything behind the backbone whose shapes do not depend on what is detected."""
    known = False
    if hasattr(model, "proposal_generator"):
        rpn = model.proposal_generator
        rpn.rpn_head([features[name] for name in rpn.in_features])
        known = True
    if isinstance(getattr(model, "roi_heads", None), StandardROIHeads):
        _run_roi_heads(model.roi_heads, features, rpn.post_nms_topk[False])
    elif hasattr(model, "roi_heads"):
        known = False
    if hasattr(model, "sem_seg_head"):
        model.sem_seg_head(features)
        known = True
    if hasattr(model, "head_in_features"):  # RetinaNet and its relatives
        model.head([features[name] for name in model.head_in_features])
        known = True
    if not known:
        raise UncountableError(f"MODEL.META_ARCHITECTURE {type(model).__name__} has heads that cannot be analyzed here")


def _run_roi_heads(heads: StandardROIHeads, features: Mapping[str, Tensor], num_proposals: int) -> None:
    if heads.mask_on and heads.mask_pooler is None:
        name = type(heads.mask_head).__name__
        raise UncountableError(f"{name} costs what the detections ask for: it cannot be analyzed")
    is_cascade = isinstance(heads.box_head, nn.ModuleList)
    stages = list(zip(heads.box_head, heads.box_predictor) if is_cascade else [(heads.box_head, heads.box_predictor)])
    channels = features[heads.box_in_features[0]].shape[1]
    for head, predictor in stages:
        predictor(head(_pooled(heads.box_pooler, num_proposals, channels)))
    num_found = stages[0][1].test_topk_per_image
    if heads.mask_on:
        heads.mask_head.layers(_pooled(heads.mask_pooler, num_found, channels))
    if heads.keypoint_on:
        heads.keypoint_head.layers(_pooled(heads.keypoint_pooler, num_found, channels))


def _pooled(pooler: ROIPooler, num_boxes: int, channels: int) -> Tensor:
    """As many features of boxes as ``pooler`` makes them."""
    levels = (len(pooler.level_poolers),) if isinstance(pooler, AdaptivePooler) else ()
    return torch.rand(num_boxes, *levels, channels, *pooler.output_size)


def _shares(counter: FlopCounterMode) -> dict[str, int]:
    """Multiply-adds of the backbone's parts; its counts are keyed by module, "FPT.fpt.gt.p2_p3.query"."""
    counts = {name: _macs(flops) for name, flops in counter.get_flop_counts().items()}
    trunk = sum(macs for name, macs in counts.items() if name.split(".")[1:] == ["bottom_up"])
    branches = {
        branch: sum(macs for name, macs in counts.items() if name.split(".")[2:3] == [branch] and name.count(".") == 3)
        for branch in BRANCHES
    }
    return {"trunk": trunk, "pyramid": counts["Global"] - trunk - sum(branches.values()), **branches}


def _macs(flops: Mapping[Any, int]) -> int:
    return sum(flops.values()) // 2


def to_markdown(costs: Sequence[Cost]) -> str:
    """A table with one row for each model, in millions of parameters and GFLOPs."""
    columns = ["Model", "Params (M)", "Trunk", "Pyramid", "ST", "GT", "RT", "Heads", "Total GFLOPs"]
    rows = [[c.name, c.parameters / 1e6, *(macs / 1e9 for macs in (*c[2:], c.total))] for c in costs]
    return tabulate(rows, columns, tablefmt="github", floatfmt=".1f")


def plot(costs: Sequence[Cost], title: str, path: Path) -> None:
    """One bar for each model, made of its parts."""
    colors = {
        "trunk": "#999999",
        "pyramid": "#56B4E9",
        "st": "#0072B2",
        "gt": "#D55E00",
        "rt": "#009E73",
        "heads": "#E69F00",
    }
    figure = Figure(figsize=(9, 1.4 + 0.42 * len(costs)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    names, left = [cost.name for cost in costs], [0.0] * len(costs)
    for part, color in colors.items():
        widths = [getattr(cost, part) / 1e9 for cost in costs]
        axes.barh(names, widths, left=left, color=color, label=part.upper() if part in BRANCHES else part)
        left = [x + width for x, width in zip(left, widths)]
    for row, total in enumerate(left):
        axes.text(total, row, f" {total:,.0f}", va="center", fontsize=11)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=13, fontweight="bold", loc="left")
    axes.set_xlabel("GFLOPs", fontsize=11)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=11, frameon=False, loc="outside lower center", ncols=len(colors))
    figure.savefig(path)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", nargs="+", metavar="FILE", help="the models (default: see the examples)")
    parser.add_argument(
        "--size", type=image_size, default="800x1333", metavar="HxW", help="size of the image (default 800x1333)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--png", type=picture_path, metavar="FILE", help="write a bar chart here too")
    add_opts(parser)
    return parser


@exit_on_user_errors()
def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line ``argv``, that of the process by default; the exit status."""
    args = get_parser().parse_args(argv)
    height, width = args.size
    models = _configs(args.config_file, args.opts)
    for path in filter(None, (args.json, args.png)):
        path.parent.mkdir(parents=True, exist_ok=True)
    costs = [measure(name, cfg, height, width) for name, cfg in tqdm(models.items(), unit="model")]
    device = device_of(next(iter(models.values())))
    title = f"GFLOPs (multiply-adds) of one {height} x {width} image, attention as on {device}"
    print(f"{title}\n\n{to_markdown(costs)}")
    if args.json:
        rows = [{**cost._asdict(), "total": cost.total} for cost in costs]
        args.json.write_text(json.dumps({"size": [height, width], "device": device, "models": rows}, indent=2) + "\n")
    if args.png:
        plot(costs, title, args.png)
    return 0


def _configs(config_files: Optional[Sequence[str]], opts: Sequence[str]) -> dict[str, Union[CfgNode, DictConfig]]:
    if config_files:
        readers = {file: read_lazy_config if file.endswith(".py") else read_config for file in config_files}
        return {name: readers[file](file, opts) for name, file in _names(config_files).items()}
    models = {}
    for name, keys in VARIANTS.items():
        models[name] = read_config(get_config_file(BASE), opts)
        models[name].merge_from_list(list(keys))
    return models


def _names(files: Sequence[str]) -> dict[str, str]:
    """The files by as much of their paths as tells them apart."""
    folder = os.path.commonpath([Path(file).resolve().parent for file in files])
    paths = {file: Path(file).resolve().relative_to(folder) for file in files}
    names = {str(path.with_suffix("")): file for file, path in paths.items()}
    return names if len(names) == len(paths) else {str(path): file for file, path in paths.items()}


if __name__ == "__main__":
    sys.exit(main())
