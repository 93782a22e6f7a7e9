"""The counts of tools/analyze_model.py against Detectron2's analysis and against formulas written out."""

import json
from pathlib import Path

import analyze_model
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis, parameter_count
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from fpt_d2.commands.model_costs import UncountableError, measure
from fpt_d2.config_file import get_default_config, read_config
from fpt_d2.model_zoo import get_config_file

SIZE = (64, 96)
# Positions of p2 to p5 of an image of that size.
POSITIONS = (16 * 24, 8 * 12, 4 * 6, 2 * 3)
CHANNELS, ST_PARTS, GT_PARTS = 32, 2, 4


def _config(branches=("st", "gt", "rt"), device="cpu", impl="auto"):
    cfg = get_default_config()
    cfg.merge_from_list(
        "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 "
        "MODEL.RESNETS.OUT_FEATURES ['res2','res3','res4','res5'] "
        "MODEL.FPN.IN_FEATURES ['res2','res3','res4','res5'] MODEL.BACKBONE.NAME build_resnet_fpt_backbone "
        "MODEL.RPN.IN_FEATURES ['p2','p3','p4','p5','p6'] MODEL.ANCHOR_GENERATOR.SIZES [[8],[16],[32],[64],[128]] "
        "MODEL.ROI_HEADS.NAME StandardROIHeads MODEL.ROI_HEADS.IN_FEATURES ['p2','p3','p4','p5'] "
        "MODEL.ROI_BOX_HEAD.NAME FastRCNNConvFCHead MODEL.ROI_BOX_HEAD.NUM_FC 2 MODEL.ROI_BOX_HEAD.FC_DIM 32 "
        "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 7 MODEL.RPN.POST_NMS_TOPK_TEST 20 MODEL.RPN.NMS_THRESH 1.0".split()
    )
    cfg.MODEL.DEVICE = device
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.FPT.BRANCH_CHANNELS = CHANNELS
    cfg.MODEL.FPT.BRANCHES = list(branches)
    cfg.MODEL.FPT.ATTENTION_IMPL = impl
    return cfg


def _attention(queries, keys, parts, *, fused):
    """Multiply-adds of one attention: projections, gate, scores, and values, once or for every part."""
    projections = (queries + 2 * keys) * CHANNELS**2 + parts * CHANNELS
    return projections + queries * keys * CHANNELS * (1 + (parts if fused else 1))


def _branches(*, fused):
    levels = range(len(POSITIONS))
    st = sum(_attention(n, n, ST_PARTS, fused=fused) for n in POSITIONS)
    gt = sum(
        _attention(POSITIONS[fine], POSITIONS[coarse], GT_PARTS, fused=fused)
        for fine in levels
        for coarse in levels[fine + 1 :]
    )
    # Two convolutions at the coarser level and one at each level on the way down to it.
    rt = sum(
        9 * CHANNELS**2 * (2 * POSITIONS[coarse] + sum(POSITIONS[fine + 1 : coarse + 1]))
        for coarse in levels
        for fine in levels[:coarse]
    )
    return st, gt, rt


def test_branches_cost_what_the_formulas_say():
    cost = measure("fpt", _config(), *SIZE)
    assert (cost.st, cost.gt, cost.rt) == _branches(fused=False)


def test_a_gpus_attention_is_counted_without_a_gpu():
    cost = measure("fpt", _config(device="cuda"), *SIZE)
    st, gt, rt = _branches(fused=True)
    # Fused kernels compute more channels than there are: the Euclidean form's own, and up to a multiple of 8.
    assert st <= cost.st <= 1.5 * st and gt <= cost.gt <= 1.5 * gt and cost.rt == rt


def test_nothing_is_lost_without_values_and_steps():
    """The same count as over a real forward pass, in which attention goes in many steps."""
    cfg = _config()
    cost = measure("fpt", cfg, *SIZE)
    backbone = build_model(cfg).eval().backbone
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone(torch.rand(1, 3, *SIZE))
    assert counter.get_total_flops() == 2 * (cost.total - cost.heads)


def test_branches_that_are_off_cost_nothing():
    plain = measure("fpn", _config(branches=[]), *SIZE)
    grounded = measure("gt", _config(branches=["gt"]), *SIZE)
    assert (plain.st, plain.gt, plain.rt, grounded.st, grounded.rt) == (0,) * 5
    assert (plain.trunk, plain.heads) == (grounded.trunk, grounded.heads)
    # Three, two and one grounding enter the fusion of p2, p3 and p4.
    fusion = 9 * CHANNELS**2 * (3 * POSITIONS[0] + 2 * POSITIONS[1] + POSITIONS[2])
    assert grounded.pyramid - plain.pyramid == fusion
    assert grounded.total == plain.total + fusion + grounded.gt


@pytest.mark.parametrize("max_kv_tokens", [0, 64])
@pytest.mark.parametrize("branches", [[], ["st", "gt", "rt"]])
def test_detectron2s_analysis_agrees(branches, max_kv_tokens):
    """On real values, of the whole detector with 20 proposals. It knows attention by the handle that fpt_d2 adds."""
    cfg = _config(branches)
    cfg.MODEL.FPT.MAX_KV_TOKENS = max_kv_tokens
    cost = measure("fpt", cfg, *SIZE)
    model = build_model(cfg).eval()
    analysis = FlopCountAnalysis(model, [{"image": torch.rand(3, *SIZE) * 255}])
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    assert ("scaled_dot_product_attention" in analysis.by_operator()) == bool(branches)
    assert analysis.total() == pytest.approx(cost.total, rel=0.01)
    assert parameter_count(model)[""] == cost.parameters


def test_command_line_writes_table_json_and_chart(tmp_path, capsys):
    config = tmp_path / "tiny.yaml"
    config.write_text(_config().dump())
    argv = ["--config-file", str(config), "--size", "64x96", "--json", str(tmp_path / "new" / "a.json")]
    assert analyze_model.main([*argv, "--png", str(tmp_path / "a.png"), "--opts", "MODEL.FPT.BRANCHES", "['rt']"]) == 0
    row = json.loads((tmp_path / "new" / "a.json").read_text())["models"][0]
    assert row["name"] == "tiny" and row["st"] == 0 and row["rt"] > 0
    assert row["total"] == sum(row[part] for part in ("trunk", "pyramid", "st", "gt", "rt", "heads"))
    assert f"| {row['parameters'] / 1e6:.1f} |" in " ".join(capsys.readouterr().out.split())
    assert Image.open(tmp_path / "a.png").width >= 1000


def test_default_rows_differ_in_what_they_say():
    models = analyze_model.read_configs(None, ["MODEL.DEVICE", "cpu"])
    assert len(models) == len({cfg.dump() for cfg in models.values()}) >= 10
    assert {cfg.MODEL.DEVICE for cfg in models.values()} == {"cpu"}


def test_configs_of_one_name_are_told_apart():
    semantic = [get_config_file(f"{name}-SemanticSegmentation/ufp_fpt_R_50.yaml") for name in ("VOC12", "ADE20K")]
    twins = [get_config_file(f"COCO-Detection/retinanet_R_50_FPT_1x.{suffix}") for suffix in ("yaml", "py")]
    assert list(analyze_model.read_configs(semantic, [])) == [
        f"{name}-SemanticSegmentation/ufp_fpt_R_50" for name in ("VOC12", "ADE20K")
    ]
    assert list(analyze_model.read_configs(twins, [])) == [Path(twin).name for twin in twins]


def test_heads_for_keypoints_are_counted():
    cfg = read_config(get_config_file("quick_schedules/keypoint_rcnn_R_18_FPT_quickstart.yaml"))
    with_keypoints = measure("keypoints", cfg, *SIZE)
    head = build_model(cfg).roi_heads.keypoint_head
    cfg.MODEL.KEYPOINT_ON = False
    # Two 3x3 convolutions and, to twice the size, a transposed 4x4 one, on 14 x 14 positions of 100 detections.
    layers = 9 * 64 * 64 * 2 + 16 * 64 * 5
    assert with_keypoints.heads - measure("boxes", cfg, *SIZE).heads == 100 * 14**2 * layers
    assert with_keypoints.parameters - measure("boxes", cfg, *SIZE).parameters == parameter_count(head)[""]


def test_a_lazy_config_costs_what_its_twin_does():
    (lazy,) = analyze_model.read_configs(
        [get_config_file("COCO-Detection/retinanet_R_50_FPT_1x.py")], ["train.device=cpu"]
    ).values()
    twin = read_config(get_config_file("COCO-Detection/retinanet_R_50_FPT_1x.yaml"), ["MODEL.DEVICE", "cpu"])
    assert measure("retinanet", lazy, *SIZE) == measure("retinanet", twin, *SIZE)


def test_point_rends_mask_head_cannot_be_analyzed():
    pytest.importorskip("detectron2.projects.point_rend")
    cfg = read_config(get_config_file("quick_schedules/pointrend_rcnn_R_18_FPT_quickstart.yaml"))
    with pytest.raises(UncountableError, match="PointRendMaskHead costs what the detections ask for"):
        measure("pointrend", cfg, *SIZE)


def test_a_trunk_that_masks_its_padding():
    cfg = _config()
    plain = measure("plain", cfg, *SIZE)
    cfg.MODEL.PLUGINS.GLOBAL_CONTEXT = ["res5"]
    assert measure("gc", cfg, *SIZE).trunk > plain.trunk


def test_a_model_that_needs_values_cannot_be_analyzed(monkeypatch):
    def forward(*_):
        raise RuntimeError("no data pointer\nin this kernel")

    monkeypatch.setattr("fpt_d2.modeling.FPT.forward", forward)
    with pytest.raises(UncountableError, match="^dconv cannot be analyzed: no data pointer$"):
        measure("dconv", _config(), *SIZE)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size", "800"], "'800' is not a size such as 800x1333"),
        (["--size", "0x0"], "'0x0' is not a size"),
        (["--png", "c.xyz"], "'c.xyz' is not the name of a picture, such as c.png"),
        (["--config-file", "none.yaml"], "none.yaml"),
        (["--opts", "MODEL.ROI_HEADS.NAME", "X"], "MODEL.ROI_HEADS.NAME is 'X', which is not registered"),
    ],
)
def test_wrong_arguments_are_one_sentence(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        analyze_model.main(argv)
    assert end.value.code == 2 and message in capsys.readouterr().err
