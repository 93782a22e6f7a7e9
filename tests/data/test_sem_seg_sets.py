"""The registered data sets for semantic segmentation are those that the configs name, and have what they need."""

from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from fpt_d2.data import DatasetError, register_from_config
from fpt_d2.data.datasets.sem_seg import load_folder, load_list
from fpt_d2.data.labels import IGNORE_LABEL
from fpt_d2.model_zoo import get_config
from tests.semantic import CLASSES, write_semantic

pytestmark = pytest.mark.usefixtures("catalogs")

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = sorted(p.relative_to(CONFIGS).as_posix() for p in CONFIGS.glob("*-SemanticSegmentation/*ufp_fpt_R_50.yaml"))


@pytest.mark.parametrize("config", NAMES)
def test_what_the_configs_name_is_registered_and_fits_the_head(config: str) -> None:
    cfg = get_config(config)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        assert name in DatasetCatalog
        metadata = MetadataCatalog.get(name)
        assert len(metadata.stuff_classes) == len(set(metadata.stuff_classes)) == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        assert len(metadata.stuff_colors) == len(set(map(tuple, metadata.stuff_colors))) == len(metadata.stuff_classes)
        assert metadata.ignore_label == IGNORE_LABEL == cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        assert "tools/prepare_sem_seg.py" in metadata.how_to_get


def test_cityscapes_has_its_own_colors_and_label_ids() -> None:
    metadata = MetadataCatalog.get("cityscapes_fine_sem_seg_val")
    road, car = metadata.stuff_classes.index("road"), metadata.stuff_classes.index("car")
    assert tuple(metadata.stuff_colors[road]) == (128, 64, 128) and tuple(metadata.stuff_colors[car]) == (0, 0, 142)
    assert metadata.stuff_dataset_id_to_contiguous_id[26] == car


def test_lists_and_folders_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("2007_1\n\n/JPEGImages/2007_2.jpg /SegmentationClassAug/2007_2.png\n")
    records = load_list(str(tmp_path / "names.txt"), "images", "masks")
    assert [record["file_name"] for record in records] == ["images/2007_1.jpg", "images/2007_2.jpg"]
    assert [record["sem_seg_file_name"] for record in records] == ["masks/2007_1.png", "masks/2007_2.png"]
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "names.txt").unlink()
    records = load_folder(str(tmp_path), "masks")
    assert [Path(record["file_name"]).name for record in records] == ["a.png", "b.JPG"]
    assert [record["sem_seg_file_name"] for record in records] == ["masks/a.png", "masks/b.png"]


def test_a_users_own_folders_are_registered(cfg, tmp_path: Path) -> None:
    entry = ("mine", *write_semantic(tmp_path))
    cfg.merge_from_list(["DATASETS.REGISTER_SEM_SEG", repr((entry,))])
    register_from_config(cfg)
    register_from_config(cfg)
    assert len(DatasetCatalog.get("mine")) == 4
    metadata = MetadataCatalog.get("mine")
    assert tuple(metadata.stuff_classes) == CLASSES and metadata.evaluator_type == "sem_seg"
    cfg.DATASETS.REGISTER_SEM_SEG = ((*entry[:3], ("sky", "sea")),)
    with pytest.raises(DatasetError, match="the name 'mine' is taken by another data set"):
        register_from_config(cfg)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e[:3], "must be a list of"),
        (lambda e: (*e[:3], "road"), "must be a list of"),
        (lambda e: (*e[:3], ()), "must be a list of"),
        (lambda e: (*e[:3], ("road", "road")), "'mine' has a class twice"),
        (lambda e: (e[0], "gone", *e[2:]), "the image folder of 'mine' does not exist: gone"),
        (lambda e: (*e[:2], "gone", e[3]), "the mask folder of 'mine' does not exist: gone"),
    ],
)
def test_a_wrong_entry_is_one_sentence(change, message: str, cfg, tmp_path: Path) -> None:
    cfg.DATASETS["REGISTER_SEM_SEG"] = (change(("mine", *write_semantic(tmp_path))),)
    with pytest.raises(DatasetError, match=f"^DATASETS.REGISTER_SEM_SEG.*{message}") as caught:
        register_from_config(cfg)
    assert "\n" not in str(caught.value)
    assert "mine" not in DatasetCatalog
