"""FPT starts as the FPN whose weights it was given, and then moves away from it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fpt_d2.checkpoint import FPTCheckpointer
from fpt_d2.checkpoint.names import is_fpt

from .caffe2_names import to_caffe2
from .conftest import MASK_RCNN, build, detect, small_config

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
FAMILIES = [
    "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    MASK_RCNN,
    "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    RETINANET,
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
]


def assert_same_detections(model: nn.Module, reference: nn.Module) -> None:
    outputs, expected = detect(model), detect(reference)
    assert len(expected[-1]) > 5
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_starts_as_its_fpn(name: str, save: Callable[..., str]) -> None:
    fpn = build(small_config(name, fpt=False))
    fpt = build(small_config(name, fpt=True), seed=1)
    FPTCheckpointer(fpt).load(save(fpn.state_dict()))
    assert_same_detections(fpt, fpn)


def test_bottom_up_path_starts_at_zero_too(fpn_model: nn.Module, save: Callable[..., str]) -> None:
    cfg = small_config(fpt=True)
    cfg.MODEL.FPT.PYRAMID = "bfp"
    model = build(cfg, seed=1)
    FPTCheckpointer(model).load(save(fpn_model.state_dict()))
    assert_same_detections(model, fpn_model)


def zoo_file(weights: dict[str, Any]) -> dict[str, Any]:
    return {"model": {k: v.numpy() for k, v in weights.items()}, "__author__": "Detectron2 Model Zoo"}


def caffe2_file(weights: dict[str, Any]) -> dict[str, Any]:
    return {"blobs": to_caffe2(weights, depth=18), "cfg": "MODEL: {TYPE: generalized_rcnn}"}


@pytest.mark.parametrize("make", [zoo_file, caffe2_file])
def test_pickle_of_either_zoo(make: Callable[..., dict[str, Any]], fpn_model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(make(fpn_model.state_dict()), protocol=2))
    cfg = small_config(fpt=True)
    # With a norm, FPT has norm.weight and norm.bias: ends of names that Caffe2 files have too.
    cfg.MODEL.FPT.NORM, cfg.MODEL.FPT.BRANCH_CHANNELS = "GN", 32
    model = build(cfg, seed=1)
    before = {name: p.clone() for name, p in model.state_dict().items() if is_fpt(name)}
    FPTCheckpointer(model).load(str(path))
    loaded = model.state_dict()
    for name, weight in {**fpn_model.state_dict(), **before}.items():
        if "running_" not in name:  # which Caffe2 has not
            assert torch.equal(loaded[name], weight), name
    fpn = build(small_config(fpt=False), seed=2)
    DetectionCheckpointer(fpn).load(str(path))
    assert_same_detections(model, fpn)


@pytest.mark.parametrize("suffix", [".pkl", ".pyth", ".pth"])
def test_no_file_is_read_but_by_the_safe_reader(
    suffix: str, fpn_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, weights = tmp_path / f"weights{suffix}", fpn_model.state_dict()
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps(zoo_file(weights)))
    else:
        content = {"model_state": weights} if suffix == ".pyth" else {"model": weights}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    read = []
    monkeypatch.setattr(pickle, "load", lambda *args, **kwargs: pytest.fail("pickle.load executes what a file holds"))
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: read.append(kwargs) or load(*args, **kwargs))
    model = build(small_config(fpt=True), seed=1)
    FPTCheckpointer(model).load(str(path))
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in weights.items())
    assert all(kwargs["weights_only"] for kwargs in read) and len(read) == (suffix != ".pkl")


def test_names_that_end_as_those_of_fpt_do_not_get_into_it(fpn_model: nn.Module, save: Callable[..., str]) -> None:
    model = build(small_config(fpt=True), seed=1)
    query = model.backbone.fpt.st["p2"].query.weight
    before = query.clone()
    strangers = {"query.weight": torch.zeros(16, 16), "p2.query.weight": torch.zeros(16, 16)}
    path = save({**fpn_model.state_dict(), **strangers}, matching_heuristics=True)
    FPTCheckpointer(model).load(path)
    assert torch.equal(query, before)
    assert_same_detections(model, fpn_model)


def test_fpt_checkpoint_loads_whole_with_matching_by_ends_of_names(save: Callable[..., str]) -> None:
    source, model = (build(small_config(fpt=True), seed) for seed in (0, 1))
    FPTCheckpointer(model).load(save(source.state_dict(), matching_heuristics=True))
    for name, weight in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


@pytest.fixture
def process_group(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (MASK_RCNN, {}),
        (MASK_RCNN, {"PYRAMID": "bfp"}),
        (MASK_RCNN, {"GT_SIMILARITY": "dot", "MAX_KV_TOKENS": 8}),  # the coarsest level has 12
        (RETINANET, {}),
    ],
    ids=["fpn", "bfp", "dot of bounded keys", "retinanet"],
)
def test_training_moves_every_parameter_under_ddp(
    name: str, settings: dict[str, Any], save: Callable[..., str], process_group: None
) -> None:
    cfgs = [small_config(name, fpt=fpt) for fpt in (False, True)]
    for cfg in cfgs:  # with a frozen norm an untrained trunk's activations explode, and every softmax saturates
        cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0
        cfg.MODEL.FPT.update(settings)
    fpn, model = (build(cfg, seed).train() for seed, cfg in enumerate(cfgs))
    FPTCheckpointer(model).load(save(fpn.state_dict()))
    before = {name: p.clone() for name, p in model.named_parameters() if is_fpt(name)}
    ddp = DistributedDataParallel(model)  # raises at the second step where one is unused
    # Adam moves whatever has a gradient, however small, and nothing else.
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(4):
        optimizer.zero_grad()
        with EventStorage():
            losses = ddp([example()])
        sum(losses.values()).backward()
        optimizer.step()
    assert len(before) > 60 and any("pyramid.down" in name for name in before) == (cfgs[1].MODEL.FPT.PYRAMID == "bfp")
    parameters = dict(model.named_parameters())
    unmoved = [name for name, start in before.items() if torch.equal(parameters[name], start)]
    assert not unmoved
    assert all(p.isfinite().all() for p in parameters.values())


def example() -> dict[str, Any]:
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(0)).float()
    masks = torch.zeros(2, 96, 128, dtype=torch.bool)
    masks[0, 10:60, 10:50] = masks[1, 30:90, 60:120] = True
    gt = Instances((96, 128), gt_boxes=Boxes(torch.tensor([[10.0, 10, 50, 60], [60, 30, 120, 90]])))
    gt.gt_classes, gt.gt_masks = torch.tensor([3, 7]), BitMasks(masks)
    return {"image": image, "instances": gt}
