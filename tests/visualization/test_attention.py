"""The attention explorer: what it says of a model, against the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from fpt_d2 import model_zoo
from fpt_d2.config_file import read_config
from fpt_d2.errors import UserError
from fpt_d2.modeling.sem_seg import SlidingWindow
from fpt_d2.visualization.attention import Exploration, _cells, _positions, explore
from fpt_d2.visualization.exploration import draw_exploration

BOX = (30.0, 20.0, 60.0, 45.0)
KEYS: list[Any] = ["MODEL.FPT.ZERO_INIT_FUSE", False, "INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 128]


def config(*keys: Any) -> CfgNode:
    cfg = model_zoo.get_config("quick_schedules/faster_rcnn_R_18_FPT_quickstart.yaml")
    cfg.merge_from_list([*KEYS, *keys])
    return cfg


def predictor(*keys: Any) -> DefaultPredictor:
    torch.manual_seed(0)
    return DefaultPredictor(config(*keys))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (75, 120, 3), dtype=np.uint8)


def kinds(exploration: Exploration) -> list[tuple[str, str]]:
    return [(gathered.kind, gathered.source) for gathered in exploration.gathered]


def test_every_branch_of_a_level_is_there_and_all_sums_to_one(image: np.ndarray) -> None:
    of_model = predictor()
    exploration = explore(of_model, image, BOX, level="p4")
    assert kinds(exploration) == [("st", "p4"), ("gt", "p5"), ("rt", "p2"), ("rt", "p3")]
    assert exploration.own_share + sum(g.share for g in exploration.gathered) == pytest.approx(1, abs=1e-6)
    assert all(0 < g.share < 1 for g in exploration.gathered)
    for gathered in exploration.gathered:
        assert gathered.map.sum().item() == pytest.approx(1, abs=1e-5) and gathered.map.min() >= 0
        assert (gathered.entropy is None) == (gathered.parts is None) == (gathered.kind == "rt")
    st = exploration.gathered[0]
    assert st.parts is not None and st.gate is not None and st.parts.shape[0] == 2
    torch.testing.assert_close(torch.einsum("n,nhw->hw", st.gate, st.parts), st.map)


FORMS: dict[str, list[Any]] = {
    "the paper's": ["MODEL.FPT.QK_NORM", False, "MODEL.FPT.MIN_STRIDE", 0, "MODEL.FPT.FUSE", "concat"],
    "embedded, one part": ["MODEL.FPT.QK_NORM", False, "MODEL.FPT.GT_SIMILARITY", "embedded"]
    + ["MODEL.FPT.ST_NUM_PARTS", 1, "MODEL.FPT.GT_NUM_PARTS", 1],
    "coarse and summed": ["MODEL.FPT.MIN_STRIDE", 16, "MODEL.FPT.FUSE", "sum", "MODEL.FPT.MAX_KV_TOKENS", 12],
    "coarse and joined": ["MODEL.FPT.MIN_STRIDE", 8, "MODEL.FPT.FUSE", "concat", "MODEL.FPT.KV_STRIDE", 2],
    "the authors' ST": ["MODEL.FPT.QK_NORM", False, "MODEL.FPT.ST_RESIDUAL", True]
    + ["MODEL.FPT.ST_TEMPERATURE", "channels", "MODEL.FPT.NORM", "GN"],
    "with padding": ["MODEL.FPT.READ_PADDING", False, "MODEL.FPT.MAX_KV_TOKENS", 0],
    "local": ["MODEL.FPT.GT_SQUARE_SIZE", 3],
    "without a softmax": ["MODEL.FPT.GT_SIMILARITY", "dot", "MODEL.FPT.QK_NORM", False],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["32", "64"])
@pytest.mark.parametrize("keys", FORMS.values(), ids=FORMS)
def test_every_form_of_attention_sums_to_one(keys: list[Any], dtype: torch.dtype, image: np.ndarray) -> None:
    of_model = predictor(*keys)
    of_model.model.to(dtype)
    for level, box in (("p2", BOX), ("p3", (0.0, 0.0, 0.0, 0.0)), ("p5", (90.0, 60.0, 118.0, 74.0))):
        exploration = explore(of_model, image, box, level=level)
        assert exploration.own_share + sum(g.share for g in exploration.gathered) == pytest.approx(1, abs=1e-6)
        for gathered in exploration.gathered:
            total, is_softmax = gathered.map.sum().item(), gathered.parts is not None
            exact = 1e-10 if is_softmax and dtype == torch.float64 else 1e-5
            assert gathered.map.min() >= 0
            if keys == FORMS["local"] and gathered.kind == "gt":  # squares that may reach beyond the image
                assert 0.1 < total < 1 + exact and gathered.beyond == pytest.approx(1 - total, abs=exact)
                assert total < 0.99 or box == BOX
            else:
                assert total == pytest.approx(1, abs=exact) and gathered.beyond < 1e-5
            if gathered.gate is not None:
                assert gathered.gate.sum().item() == pytest.approx(1, abs=exact)


def test_a_position_of_a_fine_level_is_asked_of_its_cell() -> None:
    """The places of a fine level, and the cells in which they gather, cannot come apart: a box between two centres."""
    chosen = _positions((5, 5, 11, 11), 4, (6, 6), (24, 24))
    assert chosen.tolist() == [7, 8, 13, 14]  # rows and columns 1 and 2
    assert _cells(chosen, 2, 6, 3).tolist() == [0, 1, 3, 4]
    assert _cells(torch.tensor([0, 1, 6, 35]), 2, 6, 3).tolist() == [0, 0, 0, 8]
    assert _cells(chosen, 1, 6, 6).tolist() == chosen.tolist()


def test_shares_of_a_fine_level_are_those_of_its_output(image: np.ndarray) -> None:
    """At a coarser stride too: what the branches add to the positions of the level, cell by cell."""
    of_model = predictor("MODEL.FPT.MIN_STRIDE", 8, "MODEL.FPT.FUSE", "sum", "MODEL.FPT.BRANCHES", ["st"])
    outputs: list[torch.Tensor] = []
    fusion = of_model.model.backbone.fpn_output2
    handle = fusion.register_forward_hook(lambda module, arguments, out: outputs.append(out[0]))
    fusion.norm = None  # which would hide what is added
    of_model(image)
    weight = fusion.fuse[0].weight.detach().clone()
    with torch.no_grad():
        fusion.fuse[0].weight.zero_()
    of_model(image)
    handle.remove()
    with torch.no_grad():
        fusion.fuse[0].weight.copy_(weight)
    box = (6.0, 6.0, 12.8, 12.8)  # scaled by 64/75: the centres at 6 and 10, in two cells whose centres are outside
    exploration = explore(of_model, image, box, level="p2")
    with_st, own = (x[:, 1:3, 1:3].norm(dim=0).mean() for x in (outputs[0] - outputs[1], outputs[1]))
    assert exploration.gathered[0].share == pytest.approx((with_st / (with_st + own)).item(), rel=1e-4)


def test_nothing_behind_the_level_is_computed(image: np.ndarray) -> None:
    of_model = predictor()
    of_model.model.roi_heads.forward = None
    assert explore(of_model, image, BOX, level="p3").level == "p3"


def test_a_branch_whose_convolution_is_zero_has_no_share(image: np.ndarray) -> None:
    of_model = predictor()
    before = explore(of_model, image, BOX, level="p4")
    fusion = of_model.model.backbone.fpn_output4
    assert [list(group) for group in fusion.branch_groups] == [[0, 1], [2, 3]]
    with torch.no_grad():
        fusion.fuse[1].weight[:, 32:] = 0  # the last branch, RT from p3
        fusion.fuse[0].weight[:, :32] *= 3  # the first one, ST
    after = explore(of_model, image, BOX, level="p4")
    assert after.gathered[3].share == 0 < before.gathered[3].share
    ratios = [a.share / b.share for a, b in zip(after.gathered[:3], before.gathered)]
    assert ratios[0] == pytest.approx(3 * ratios[1]) and ratios[1] == pytest.approx(ratios[2])
    assert after.own_share / before.own_share == pytest.approx(ratios[1])


def test_branches_that_are_summed_at_a_coarser_stride(image: np.ndarray) -> None:
    """One convolution serves all of them; p2 gathers at stride 8, at the place of the object there."""
    of_model = predictor("MODEL.FPT.FUSE", "sum", "MODEL.FPT.MIN_STRIDE", 8)
    exploration = explore(of_model, image, BOX, level="p2")
    assert kinds(exploration) == [("st", "p2"), ("gt", "p3"), ("gt", "p4"), ("gt", "p5")]
    assert exploration.own_share + sum(g.share for g in exploration.gathered) == pytest.approx(1, abs=1e-6)
    assert all(0 < g.share < 1 for g in exploration.gathered)
    assert [g.map.sum().item() for g in exploration.gathered] == pytest.approx([1] * 4, abs=1e-5)
    (conv,) = of_model.model.backbone.fpn_output2.fuse
    with torch.no_grad():
        conv.weight.zero_()
    assert explore(of_model, image, BOX, level="p2").own_share == pytest.approx(1)


def test_windows_and_augmentation_are_left_out(image: np.ndarray) -> None:
    file = model_zoo.get_config_file("quick_schedules/ufp_fpt_R_50_quickstart.yaml")
    cfg = read_config(file, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(0)
    of_model = DefaultPredictor(cfg)
    whole = explore(of_model, image, (10, 10, 10, 10))
    assert whole.level == "u1" and [g.source for g in whole.gathered[:2]] == ["u1", "u7"]
    of_model.model = SlidingWindow(of_model.model, size=(32, 48), stride=(16, 24))
    again = explore(of_model, image, (10, 10, 10, 10))
    torch.testing.assert_close([g.map for g in again.gathered], [g.map for g in whole.gathered])


def test_a_large_object_is_asked_about_all_over() -> None:
    chosen = _positions((0, 0, 252, 84), 4, (25, 64), (100, 256))
    rows, columns = chosen // 64, chosen % 64
    assert rows.unique().tolist() == [0, 2, 5, 8, 11, 14, 17, 20] and columns.min() == 0 and columns.max() == 62
    assert len(chosen) == len(chosen.unique()) == 64
    assert _positions((-9, -9, -5, -5), 4, (25, 64), (100, 256)).tolist() == [0]  # beyond the image


def test_a_box_is_asked_of_the_level_that_its_head_reads(image: np.ndarray) -> None:
    of_model = predictor()
    assert explore(of_model, image, BOX).level == "p2"
    assert explore(of_model, image, (0, 0, 0, 0)).level == "p2"
    large = np.zeros((800, 1000, 3), dtype=np.uint8)
    of_large = predictor("INPUT.MIN_SIZE_TEST", 256, "INPUT.MAX_SIZE_TEST", 320)
    assert explore(of_large, large, (0, 0, 999, 799)).level == "p4"


def test_a_branch_without_softmax_is_shown_where_it_reads(image: np.ndarray) -> None:
    """RT reads a finer level around the place itself."""
    exploration = explore(predictor("MODEL.FPT.BRANCHES", ["rt"]), image, (100, 60, 100, 60), level="p3")
    ((kind, source),) = kinds(exploration)
    assert (kind, source) == ("rt", "p2")
    rows, columns = exploration.gathered[0].map.shape
    peak = int(exploration.gathered[0].map.argmax())
    scale = 64 / 75
    assert abs(peak // columns - 60 * scale / 4) <= 6 and abs(peak % columns - 100 * scale / 4) <= 6


def test_the_model_predicts_as_before(image: np.ndarray) -> None:
    of_model = predictor("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    before = of_model(image)["instances"]
    explore(of_model, image, BOX)
    after = of_model(image)["instances"]
    torch.testing.assert_close(after.pred_boxes.tensor, before.pred_boxes.tensor)
    assert not any(m._forward_pre_hooks for m in of_model.model.modules())


def test_a_model_with_nothing_to_explore_is_refused(image: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"no branches to explore: MODEL\.FPT\.BRANCHES is empty"):
        explore(predictor("MODEL.FPT.BRANCHES", []), image, BOX)
    with pytest.raises(UserError, match="no level 'p7'; FPT's levels are p2, p3, p4, p5"):
        explore(predictor(), image, BOX, level="p7")
    with pytest.raises(
        UserError, match="No branch of FPT writes to p2; those of MODEL.FPT.BRANCHES write to p3, p4, p5"
    ):
        explore(predictor("MODEL.FPT.BRANCHES", ["rt"]), image, BOX, level="p2")


def test_a_picture_is_drawn_of_wide_and_of_tall_images(image: np.ndarray, tmp_path: Path) -> None:
    of_model = predictor()
    for name, picture in (
        ("wide", image[:30]),
        ("tall", image.transpose(1, 0, 2)),
        ("photo", np.tile(image, (9, 9, 1))),
    ):
        box = (10.0, 5.0, 10.0, 5.0)
        draw_exploration(
            picture, box, explore(of_model, picture, box), tmp_path / "new" / f"{name}.png", title="a pixel"
        )
        written = cv2.imread(str(tmp_path / "new" / f"{name}.png"))
        assert min(written.shape[:2]) > 200 and written.std() > 10
