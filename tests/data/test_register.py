import multiprocessing

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, build_detection_train_loader
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks

from fpt_d2.data import DatasetError, register_from_config
from fpt_d2.data.synthetic.classes import CATEGORIES

pytestmark = pytest.mark.usefixtures("catalogs")


def entry(name, shapes_root, split="train"):
    return (name, str(shapes_root / "annotations" / f"instances_{split}.json"), str(shapes_root / split))


@pytest.mark.parametrize("split", ["train", "val"])
def test_synthetic_data_set_is_known_without_its_files(split):
    metadata = MetadataCatalog.get(f"fpt_shapes_{split}")
    assert f"fpt_shapes_{split}" in DatasetCatalog
    assert metadata.thing_classes == list(CATEGORIES)
    assert metadata.evaluator_type == "coco"
    assert metadata.json_file.endswith(f"fpt_shapes/annotations/instances_{split}.json")


def test_loads_through_detectron2(shapes_root):
    name, json_file, image_root = entry("shapes_by_hand", shapes_root)
    records = load_coco_json(json_file, image_root, name)
    assert len(records) == 36
    assert MetadataCatalog.get(name).thing_classes == list(CATEGORIES)
    assert MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id == {i + 1: i for i in range(6)}
    assert {type(a["segmentation"]) for r in records for a in r["annotations"]} == {list, dict}
    MetadataCatalog.remove(name)


def test_the_train_loader_of_detectron2_reads_it(cfg, shapes_root):
    cfg.DATASETS.REGISTER_COCO = (entry("my_train", shapes_root),)
    cfg.DATASETS.TRAIN = ("my_train",)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.INPUT.MIN_SIZE_TRAIN = (128,)
    register_from_config(cfg)
    loader = iter(build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True)))
    for _ in range(12):
        for inputs in next(loader):
            instances = inputs["instances"]
            assert len(instances) and min(inputs["image"].shape[1:]) == 128
            assert set(instances.gt_classes.tolist()) <= set(range(6))
            assert isinstance(instances.gt_masks, BitMasks)
            boxes = instances.gt_masks.get_bounding_boxes().tensor
            # Resized by 128/64 at most, a mask's border may move by about a pixel against its box.
            assert torch.all((boxes - instances.gt_boxes.tensor).abs() <= 3)


def test_registering_again_changes_nothing(cfg, shapes_root):
    cfg.DATASETS.REGISTER_COCO = [list(entry("my_train", shapes_root)), list(entry("my_val", shapes_root, "val"))]
    register_from_config(cfg)
    register_from_config(cfg)
    assert len(DatasetCatalog.get("my_train")) == 36
    assert len(DatasetCatalog.get("my_val")) == 12
    register_from_config(cfg)  # loading has added to the metadata
    assert MetadataCatalog.get("my_val").evaluator_type == "coco"


def test_a_taken_name_is_refused(cfg, shapes_root):
    cfg.DATASETS.REGISTER_COCO = (entry("my_train", shapes_root), entry("my_train", shapes_root, "val"))
    with pytest.raises(DatasetError, match="DATASETS.REGISTER_COCO: the name 'my_train' is taken"):
        register_from_config(cfg)
    cfg.DATASETS.REGISTER_COCO = (entry("coco_2017_train", shapes_root),)
    with pytest.raises(DatasetError, match="'coco_2017_train' is taken"):
        register_from_config(cfg)


@pytest.mark.parametrize("value", [("my_train", "a.json", "images"), (("my_train", "a.json"),), ((1, "a", "b"),)])
def test_another_form_is_refused(cfg, value):
    cfg.DATASETS["REGISTER_COCO"] = value
    with pytest.raises(DatasetError, match="DATASETS.REGISTER_COCO must be a list of"):
        register_from_config(cfg)


def test_the_command_line_form(cfg, shapes_root):
    cfg.merge_from_list(["DATASETS.REGISTER_COCO", repr((entry("my_train", shapes_root),))])
    register_from_config(cfg)
    assert "my_train" in DatasetCatalog


def test_missing_files_are_named(cfg, shapes_root, tmp_path):
    name, json_file, image_root = entry("my_train", shapes_root)
    cfg.DATASETS.REGISTER_COCO = ((name, str(tmp_path / "no.json"), image_root),)
    with pytest.raises(DatasetError, match="annotation file of 'my_train' does not exist: .*no.json"):
        register_from_config(cfg)
    cfg.DATASETS.REGISTER_COCO = ((name, json_file, str(tmp_path / "none")),)
    with pytest.raises(DatasetError, match="image folder of 'my_train' does not exist: .*none"):
        register_from_config(cfg)
    assert "my_train" not in DatasetCatalog


def _load_in_child(cfg: CfgNode, queue: multiprocessing.Queue) -> None:
    register_from_config(cfg)
    queue.put(len(DatasetCatalog.get("my_train")))


def test_a_spawned_process_registers_too(cfg, shapes_root):
    cfg.DATASETS.REGISTER_COCO = (entry("my_train", shapes_root),)
    register_from_config(cfg)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_load_in_child, args=(cfg, queue))
    process.start()
    assert queue.get(timeout=120) == 36
    process.join()
    assert process.exitcode == 0
