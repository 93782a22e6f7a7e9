"""Each type of data set gets its evaluator, and the figures are those of the official tools."""

import importlib.util
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    COCOPanopticEvaluator,
    DatasetEvaluators,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fpt_d2.data.synthetic.write_shapes import write_shapes
from fpt_d2.engine import get_default_config
from fpt_d2.engine.hardware import check_cityscapes_sets
from fpt_d2.errors import ConfigError
from fpt_d2.evaluation import COCOEvaluator, build_evaluator, check_evaluator, metric_names
from fpt_d2.evaluation.panoptic import PanopticQuality

NAME = "evaluated"
PANOPTIC = COCOPanopticEvaluator if importlib.util.find_spec("panopticapi") else PanopticQuality


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes(root, num_train=1, num_val=12, image_size=(64, 96), progress=False)
    return root


@pytest.fixture
def cfg(tmp_path: Path):
    """A config that tests ``NAME``, for which nothing is registered when the test is over."""
    cfg = get_default_config()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.DATASETS.TEST = (NAME,)
    yield cfg
    for catalog in (DatasetCatalog, MetadataCatalog):
        for name in [name for name in catalog.list() if name.startswith(NAME)]:
            catalog.remove(name)


def near_truth(record: dict, coco: COCO, contiguous: dict[int, int], rng: np.random.Generator) -> Instances:
    """The true objects of an image with boxes and masks moved, some classes wrong and some objects missed."""
    truth = [a for a in coco.loadAnns(coco.getAnnIds(record["image_id"], iscrowd=False)) if rng.random() < 0.9]
    boxes = np.array([a["bbox"] for a in truth]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    classes = [contiguous[a["category_id"]] if rng.random() < 0.9 else int(rng.integers(6)) for a in truth]
    masks = [np.roll(coco.annToMask(a), int(rng.integers(3)), axis=int(rng.integers(2))) for a in truth]
    instances = Instances((record["height"], record["width"]))
    instances.pred_boxes = Boxes(torch.tensor(boxes + rng.normal(0, 1.5, boxes.shape), dtype=torch.float32))
    instances.scores = torch.tensor(rng.random(len(truth)), dtype=torch.float32)
    instances.pred_classes = torch.tensor(classes, dtype=torch.int64)
    empty = np.zeros((0, record["height"], record["width"]))
    instances.pred_masks = torch.tensor(np.array(masks) if masks else empty, dtype=torch.bool)
    return instances


def test_figures_are_those_of_pycocotools_on_the_saved_results(shapes: Path, cfg, tmp_path: Path) -> None:
    json_file = str(shapes / "annotations" / "instances_val.json")
    register_coco_instances(NAME, {}, json_file, str(shapes / "val"))
    records, coco, rng = DatasetCatalog.get(NAME), COCO(json_file), np.random.default_rng(0)
    contiguous = MetadataCatalog.get(NAME).thing_dataset_id_to_contiguous_id
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"instances": near_truth(record, coco, contiguous, rng)}])
    results = evaluator.evaluate()
    saved = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    # With its box in the file a prediction's size would be the box's where the mask's is meant.
    without_box = [{key: value for key, value in prediction.items() if key != "bbox"} for prediction in saved]
    for task, predictions in (("bbox", saved), ("segm", without_box)):
        official = COCOeval(coco, coco.loadRes(predictions), task)
        official.evaluate()
        official.accumulate()
        official.summarize()
        for figure, value in zip(["AP", "AP50", "AP75", "APs", "APm"], official.stats, strict=False):
            assert results[task][figure] == pytest.approx(100 * value, abs=1e-9), (task, figure)
        assert 10 < results[task]["AP"] < results[task]["AP50"] < 95
    cfg.MODEL.MASK_ON = True
    assert kinds(results) == set(metric_names(cfg, NAME))
    cfg.MODEL.MASK_ON = False
    assert "bbox/APs" in metric_names(cfg, NAME) and "segm/AP" not in metric_names(cfg, NAME)
    cfg.MODEL.META_ARCHITECTURE = "SomeoneElses"
    assert metric_names(cfg, NAME) is None


@pytest.mark.parametrize("unseen", [(), ("square",), ("square", "star")])
def test_context_and_ordinary_classes_are_averaged_apart(shapes: Path, cfg, unseen: tuple[str, ...]) -> None:
    """Beside Detectron2's own figures; a class without an object in the data does not count."""
    file = json.loads((shapes / "annotations" / "instances_val.json").read_text())
    names = {category["id"]: category["name"] for category in file["categories"]}
    file["annotations"] = [a for a in file["annotations"] if names[a["category_id"]] not in unseen]
    json_file = Path(cfg.OUTPUT_DIR, "instances.json")
    json_file.write_text(json.dumps(file))
    results = {}
    for name, metadata in ((NAME, {"context_classes": ["square", "star"]}), (f"{NAME}_plain", {})):
        register_coco_instances(name, metadata, str(json_file), str(shapes / "val"))
        evaluator, coco, rng = build_evaluator(cfg, name), COCO(json_file), np.random.default_rng(0)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            instances = near_truth(record, coco, {i + 1: i for i in range(6)}, rng)
            evaluator.process([record], [{"instances": instances}])
        results[name] = evaluator.evaluate()
    cfg.MODEL.MASK_ON = True
    assert kinds(results[NAME]) == set(metric_names(cfg, NAME))
    for task in ("bbox", "segm"):
        plain = results[f"{NAME}_plain"][task]
        context = [plain[f"AP-{name}"] for name in ("square", "star") if name not in unseen]
        ordinary = [plain[f"AP-{name}"] for name in ("circle", "triangle", "ring", "cross")]
        means = {"AP-context": np.mean(context) if context else np.nan, "AP-ordinary": np.mean(ordinary)}
        assert results[NAME][task] == pytest.approx(plain | means, nan_ok=True)


def test_where_nothing_is_detected_neither_kind_has_a_figure(shapes: Path, cfg) -> None:
    metadata = {"context_classes": ["square"]}
    json_file = str(shapes / "annotations" / "instances_val.json")
    register_coco_instances(NAME, metadata, json_file, str(shapes / "val"))
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    assert evaluator.evaluate() == {}
    for record in DatasetCatalog.get(NAME):
        empty = Instances((record["height"], record["width"]))
        empty.pred_boxes, empty.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
        empty.pred_classes = torch.zeros(0, dtype=torch.int64)
        evaluator.process([record], [{"instances": empty}])
    results = evaluator.evaluate()["bbox"]
    assert np.isnan([results["AP-context"], results["AP-ordinary"]]).all()


def test_a_context_class_that_is_none_is_named_before_training(cfg) -> None:
    MetadataCatalog.get(NAME).set(evaluator_type="coco", thing_classes=["dog", "cat"], context_classes=["dgo"])
    with pytest.raises(ValueError, match="'dgo' among the context_classes.*dog, cat"):
        check_evaluator(cfg, NAME)


def kinds(results: dict) -> set[str]:
    """Names of metrics, without those of classes."""
    return {re.sub("-[^-]*$", "-", name) for name in flatten_results_dict(results)}


def labels(tmp_path: Path, cfg, **metadata) -> None:
    """Register one image of 2 x 4 pixels with semantic labels: class 0, class 1, and a pixel without."""
    Image.fromarray(np.array([[0, 0, 1, 1], [0, 0, 1, 255]], dtype=np.uint8)).save(tmp_path / "labels.png")
    record = {"file_name": "image.png", "sem_seg_file_name": str(tmp_path / "labels.png"), "height": 2, "width": 4}
    DatasetCatalog.register(NAME, lambda: [{**record, "image_id": 0}])
    MetadataCatalog.get(NAME).set(stuff_classes=["ground", "sky"], ignore_label=255, **metadata)


def test_semantic_labels_are_read_and_measured(cfg, tmp_path: Path) -> None:
    labels(tmp_path, cfg, evaluator_type="sem_seg")
    evaluator = build_evaluator(cfg, NAME)
    assert isinstance(evaluator, SemSegEvaluator)
    evaluator.reset()
    # Right but for one of the four pixels of class 0; the pixel without a label counts for nothing.
    predicted = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0]])
    output = {"sem_seg": torch.nn.functional.one_hot(predicted, 2).permute(2, 0, 1)}
    evaluator.process(DatasetCatalog.get(NAME), [output])
    results = evaluator.evaluate()
    assert kinds(results) <= set(metric_names(cfg, NAME))
    results = results["sem_seg"]
    assert results["mIoU"] == pytest.approx(100 * (3 / 4 + 3 / 4) / 2)
    assert results["pACC"] == pytest.approx(100 * 6 / 7)


# What Detectron2's code for Cityscapes' instances imports: since December 2024 a package that Meta alone has.
CITYSCAPES = (
    "deeplearning" if "deeplearning." in inspect.getsource(CityscapesInstanceEvaluator) else "cityscapesscripts"
)


@pytest.mark.parametrize(
    ("kind", "evaluators", "package"),
    [
        ("coco", [COCOEvaluator], None),
        ("coco_panoptic_seg", [SemSegEvaluator, COCOEvaluator, PANOPTIC], None),
        ("lvis", [LVISEvaluator], "lvis"),
        ("cityscapes_instance", [CityscapesInstanceEvaluator], CITYSCAPES),
        ("cityscapes_sem_seg", [SemSegEvaluator], None),
        ("pascal_voc", [PascalVOCDetectionEvaluator], None),
        ("sem_seg", [SemSegEvaluator], None),
    ],
)
def test_the_evaluator_of_each_type(kind, evaluators, package, shapes: Path, cfg, tmp_path: Path) -> None:
    ids = {i + 1: i for i in range(6)}
    metadata = {"json_file": str(shapes / "annotations" / "instances_val.json"), "thing_classes": list("abcdef")}
    metadata |= {"thing_dataset_id_to_contiguous_id": ids, "stuff_dataset_id_to_contiguous_id": ids}
    metadata |= {"dirname": str(tmp_path), "split": "test", "year": 2007}
    metadata |= {"panoptic_json": str(tmp_path / "panoptic.json"), "panoptic_root": str(tmp_path)}
    labels(tmp_path, cfg, evaluator_type=kind, **metadata)
    if package is not None and importlib.util.find_spec(package) is None:
        with pytest.raises(ValueError, match=f"'{NAME}'.*needs the package {package}"):
            build_evaluator(cfg, NAME)
        return
    evaluator = build_evaluator(cfg, NAME)
    parts = evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]
    assert [type(part) for part in parts] == evaluators


@pytest.mark.parametrize("is_train", [True, False])
def test_cityscapes_by_sources_that_import_what_meta_alone_has(is_train: bool, monkeypatch) -> None:
    name = f"{NAME}_cityscapes"
    MetadataCatalog.get(name).set(evaluator_type="cityscapes_instance")
    monkeypatch.setattr(inspect, "getsource", lambda _: "import deeplearning.projects")
    with pytest.raises(ConfigError, match=f"'{name}'.*needs the package deeplearning, which Meta alone has: take"):
        check_cityscapes_sets([name] * is_train, [name] * (not is_train), 1)


def test_an_unknown_type_is_named_with_those_that_are_known(cfg) -> None:
    MetadataCatalog.get(NAME).set(evaluator_type="odd")
    with pytest.raises(ValueError, match=f"'{NAME}' has evaluator_type 'odd'.*coco, coco_panoptic_seg, lvis"):
        check_evaluator(cfg, NAME)
    MetadataCatalog.get(f"{NAME}_too").set(thing_classes=[])
    with pytest.raises(ValueError, match="evaluator_type None"):
        build_evaluator(cfg, f"{NAME}_too")


def test_several_data_sets_do_not_share_a_folder(shapes: Path, cfg, tmp_path: Path) -> None:
    json_file = str(shapes / "annotations" / "instances_val.json")
    cfg.DATASETS.TEST = (NAME, f"{NAME}_too")
    for name in cfg.DATASETS.TEST:
        register_coco_instances(name, {}, json_file, str(shapes / "val"))
        evaluator = build_evaluator(cfg, name)
        evaluator.reset()
        record = DatasetCatalog.get(name)[0]
        instances = near_truth(record, COCO(json_file), {i + 1: i for i in range(6)}, np.random.default_rng(0))
        evaluator.process([record], [{"instances": instances}])
        evaluator.evaluate()
    for name in cfg.DATASETS.TEST:
        assert json.loads((tmp_path / "inference" / name / "coco_instances_results.json").read_text())
