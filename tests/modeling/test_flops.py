"""What fvcore's and Detectron2's counters of FLOPs count of a backbone, against torch's on the model as it runs."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_backbone
from detectron2.utils.analysis import FlopCountAnalysis as Detectron2Analysis
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .models import FASTER_RCNN, small_config

WIDTH = ["MODEL.FPN.OUT_CHANNELS", 64, "MODEL.FPT.BRANCH_CHANNELS", 64]
SIZE = (128, 160)
CASES = [
    ["MODEL.FPT.BRANCHES", []],
    ["MODEL.FPT.MAX_KV_TOKENS", 0],
    ["MODEL.FPT.MAX_KV_TOKENS", 100],
    ["MODEL.FPT.MAX_KV_TOKENS", 0, "MODEL.FPT.GT_SIMILARITY", "embedded"],
    ["MODEL.FPT.GT_SQUARE_SIZE", 5],
    ["MODEL.FPT.GT_SIMILARITY", "dot"],
    ["MODEL.FPT.PYRAMID", "build_resnet_bifpn_backbone"],
]


def backbone(*opts: object) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(small_config(FASTER_RCNN, "MODEL.DEVICE", "cpu", *WIDTH, *opts)).eval()


def image() -> Tensor:
    return torch.randn(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def as_it_runs(model: nn.Module) -> int:
    """Multiply-adds, by torch. Both sides count every branch: one that is hooked is not folded into its convolution."""
    hooks = [module.register_forward_hook(lambda *_: None) for module in model.modules()]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image())
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() // 2


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("analysis", [FlopCountAnalysis, Detectron2Analysis], ids=["fvcore", "detectron2"])
@pytest.mark.parametrize("opts", CASES, ids=str)
def test_counters_agree_with_torchs_within_a_hundredth(opts: list, analysis: type) -> None:
    model = backbone(*opts)
    inputs = image() if analysis is FlopCountAnalysis else (image(),)
    counted = analysis(model, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    total, expected = counted.tracer_warnings("none").total(), as_it_runs(model)
    assert abs(total - expected) <= 0.01 * expected, total / expected
    attends = "MODEL.FPT.BRANCHES" not in opts
    assert bool(counted.by_operator()["scaled_dot_product_attention"]) is attends
    assert ("scaled_dot_product_attention" in counted.unsupported_ops()) is False


def test_attention_of_exact_keys_is_counted_as_the_formula_says() -> None:
    model = backbone("MODEL.FPT.MAX_KV_TOKENS", 0)
    counted = FlopCountAnalysis(model, image()).unsupported_ops_warnings(False).tracer_warnings("none")
    positions = {n: SIZE[0] * SIZE[1] // 4**n for n in (2, 3, 4, 5)}
    pairs = sum(positions[n] * positions[m] for n in positions for m in positions if m >= n)
    # Scores: all 64 channels, whatever the parts; values: 64 channels once.
    assert counted.by_operator()["scaled_dot_product_attention"] == pairs * (64 + 64)


def test_attention_of_others_is_counted_too() -> None:
    class Attention(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q = torch.cat((q, q), -1)  # as rotary embeddings do; not our bias
            return nn.functional.scaled_dot_product_attention(q, k, v)

    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 16), torch.randn(2, 3, 7, 6)
    counted = FlopCountAnalysis(Attention(), (q, k, v)).unsupported_ops_warnings(False)
    assert counted.by_operator()["scaled_dot_product_attention"] == 2 * 3 * 5 * 7 * (16 + 6)
