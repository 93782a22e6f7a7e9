"""Configs are found by name, and are Detectron2's but for the neck. (That they build: modeling/test_parameters.py.)"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode, get_cfg

from fpt_d2 import add_fpt_config, model_zoo
from fpt_d2.engine import read_config
from fpt_d2.errors import ConfigError, UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
NAMES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
CONFIG = "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"
DETECTORS = [name for name in NAMES if not name.startswith("Base-")]
MOVED = json.loads((CONFIGS / "moved.json").read_text(encoding="utf-8"))
HEADS = {"ppm_fpt": "build_ppm_head", "aspp_fpt": "build_aspp_head", "ufp_oc": "build_oc_head"}
PAPER = [name for name in DETECTORS if "_paper" in name]
# Those whose FPN twin Detectron2 has.
TWINS = [
    "COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml",
    "COCO-Detection/faster_rcnn_R_50_FPT_3x.yaml",
    "COCO-Detection/faster_rcnn_R_101_FPT_3x.yaml",
    "COCO-Detection/retinanet_R_50_FPT_1x.yaml",
    "COCO-Detection/retinanet_R_50_FPT_3x.yaml",
    "COCO-Detection/retinanet_R_101_FPT_3x.yaml",
    "COCO-Detection/rpn_R_50_FPT_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_1x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPT_3x.yaml",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPT_3x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPT_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPT_3x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_101_FPT_3x.yaml",
    "COCO-PanopticSegmentation/panoptic_fpt_R_50_1x.yaml",
    "COCO-PanopticSegmentation/panoptic_fpt_R_50_3x.yaml",
    "COCO-PanopticSegmentation/panoptic_fpt_R_101_3x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPT_1x.yaml",
    "Misc/cascade_mask_rcnn_R_50_FPT_3x.yaml",
]


def flat(cfg: CfgNode, prefix: str = "") -> dict:
    """From dotted key to value, lists and tuples alike."""
    items = {}
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            items.update(flat(value, f"{prefix}{key}."))
        else:
            items[prefix + key] = list(value) if isinstance(value, tuple) else value
    return items


@pytest.mark.parametrize("name", NAMES)
def test_file_is_found_by_its_name(name):
    assert Path(model_zoo.get_config_file(name)).samefile(CONFIGS / name)


@pytest.mark.parametrize("name", TWINS)
def test_is_detectron2s_config_but_for_the_neck(name):
    theirs = get_cfg()
    add_fpt_config(theirs)
    theirs.merge_from_file(
        detectron2_model_zoo.get_config_file(name.replace("_FPT_", "_FPN_").replace("_fpt_", "_fpn_"))
    )
    ours, theirs = flat(model_zoo.get_config(name)), flat(theirs)
    different = {key for key in ours if ours[key] != theirs[key]}
    assert "MODEL.BACKBONE.NAME" in different
    assert all(key.startswith(("MODEL.BACKBONE.NAME", "MODEL.FPT.")) for key in different)


@pytest.mark.parametrize("name", ["", "..", "Base-RCNN-FPT", "/etc/passwd", NAMES[0].upper()])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"no config .*; the nearest are: .*\.yaml"):
        model_zoo.get_config_file(name)


def test_unknown_name_is_answered_with_the_one_that_was_meant():
    with pytest.raises(ValueError, match="nearest are: COCO-Detection/faster_rcnn_R_50_FPT_1x.yaml"):
        model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FTP_1x.yaml")


@pytest.mark.parametrize("name", MOVED)
def test_what_replaces_a_removed_config_is_what_its_name_says(name):
    assert name not in NAMES
    file, *words = shlex.split(MOVED[name])
    cfg = read_config(model_zoo.get_config_file(file), words)
    model, depth = re.search(r"/(\w+?)_R_(\d+)", name).groups()
    assert file.startswith(name.partition("/")[0]) and cfg.MODEL.RESNETS.DEPTH == int(depth)
    if "SemanticSegmentation" in name:
        assert cfg.MODEL.SEM_SEG_HEAD.NAME == HEADS.get(model, "build_ufp_head")
        assert bool(cfg.MODEL.FPT.BRANCHES) == ("fpt" in model)
        assert cfg.MODEL.WEIGHTS == f"detectron2://DeepLab/R-{ {50: 52, 101: 103}[int(depth)] }.pkl"
    else:
        assert cfg.MODEL.WEIGHTS.endswith(f"R-{depth}.pkl") and cfg.SOLVER.MAX_ITER == 90_000


@pytest.mark.parametrize("read", [model_zoo.get_config, lambda name: read_config(f"configs/{name}")])
def test_whoever_names_a_removed_config_is_told_what_to_use(read):
    name, replacement = "LIP-SemanticSegmentation/ufp_R_101.yaml", "LIP-SemanticSegmentation/ufp_fpt_R_101.yaml"
    with pytest.raises(UserError, match=rf"{name} is no longer .*{replacement} MODEL.FPT.BRANCHES '\[\]'$"):
        read(name)


def test_no_trained_weights_are_promised():
    with pytest.raises(RuntimeError, match="no weights trained with"):
        model_zoo.get_config(TWINS[0], trained=True)


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_have_exact_attention_and_nothing_unverified(name):
    fpt = model_zoo.get_config(name).MODEL.FPT
    assert (fpt.KV_STRIDE, fpt.MAX_KV_TOKENS, fpt.GT_SQUARE_SIZE) == (1, 0, 0)
    assert (fpt.GT_SIMILARITY, fpt.ST_NUM_PARTS, fpt.GT_NUM_PARTS) == ("euclidean", 2, 4)
    # The paper has DropBlock without its figures; the authors' code has these, commented out.
    has_branches = len(fpt.BRANCHES) > 0
    assert (fpt.DROP_BLOCK_PROB, fpt.DROP_BLOCK_SIZE, fpt.DROP_BLOCK_SHARED) == (0.2 * has_branches, 3, True)


@pytest.mark.parametrize("name", PAPER)
def test_paper_configs_have_the_authors_schedule(name):
    cfg = model_zoo.get_config(name)
    mask = cfg.MODEL.MASK_ON
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.IMS_PER_BATCH) == (0.05, 1e-4, 16)
    assert cfg.SOLVER.STEPS == ((120_000, 160_000) if mask else (80_000, 100_000))
    assert cfg.SOLVER.MAX_ITER == (180_000 if mask else 120_000)
    assert sorted(cfg.INPUT.MIN_SIZE_TRAIN) == [400, 600, 800, 1000, 1200, 1200]
    assert (cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (1400, 1000, 1400)
    assert (cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA, cfg.MODEL.RPN.SMOOTH_L1_BETA) == (1 / 3, 1 / 9)


@pytest.mark.parametrize("name", ["Base-RCNN-FPT-paper.yaml", *PAPER])
def test_paper_configs_say_where_each_setting_comes_from(name):
    lines = Path(model_zoo.get_config_file(name)).read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if not line.startswith(("#", "_BASE_")) and not line.rstrip().endswith(":")]
    assert settings and all("  # " in line for line in settings)


def test_a_config_is_read_by_its_name_where_no_file_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (CONFIG, f"configs/{CONFIG}"):
        assert read_config(name).MODEL.BACKBONE.NAME == "build_resnet_fpt_backbone"
    with pytest.raises(ConfigError, match=f"did you mean {CONFIG}"):
        read_config(CONFIG.replace("FPT", "FTP"))
    for name in (f"../configs/{CONFIG}", "configs", str(tmp_path / CONFIG)):
        with pytest.raises(ConfigError, match="There is no config file|is a folder"):
            read_config(name)
    (tmp_path / CONFIG).parent.mkdir()
    (tmp_path / CONFIG).write_text("MODEL: {DEVICE: cpu}")  # a file of one's own comes first
    assert read_config(CONFIG).MODEL.BACKBONE.NAME != "build_resnet_fpt_backbone"
