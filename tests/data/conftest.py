import copy
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from fpt_d2.config import add_fpt_config
from fpt_d2.data.synthetic.write_shapes import write_shapes
from tests.data.coco_files import GOOD


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic data set, large enough to have everything that a large one has. Not to be changed."""
    root = tmp_path_factory.mktemp("datasets") / "shapes"
    write_shapes(root, num_train=36, num_val=12, image_size=(64, 112), seed=3, progress=False)
    return root


@pytest.fixture
def catalogs():
    """Forget what a test has registered."""
    before = DatasetCatalog.list()
    yield
    for name in set(DatasetCatalog.list()) - set(before):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_fpt_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for image in GOOD["images"]:
        Image.new("RGB", (image["width"], image["height"])).save(tmp_path / "images" / image["file_name"])
    return tmp_path / "images"


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(GOOD)
