"""Images and masks go through training's augmentations together."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from PIL import Image

from fpt_d2.data import DatasetError, InstanceMapper, SemSegMapper, build_train_mapper, check_input_config
from fpt_d2.errors import ConfigError
from tests.semantic import CLASSES, IGNORE, draw

NAMES = ("mirrored_train", "plain_train")


@pytest.fixture(autouse=True)
def metadata():
    """A data set in which left and right wing change in the mirror, and one in which nothing does."""
    MetadataCatalog.get(NAMES[0]).set(stuff_classes=CLASSES, stuff_flip_map=[("left wing", "right wing")])
    MetadataCatalog.get(NAMES[1]).set(stuff_classes=CLASSES)
    yield
    for name in NAMES:
        MetadataCatalog.remove(name)


@pytest.fixture
def cfg(cfg):
    """Semantic segmentation that changes nothing of an image."""
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.DATASETS.TRAIN = ("plain_train",)
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.RANDOM_FLIP = "none"
    return cfg


@pytest.fixture
def record(tmp_path: Path) -> dict:
    image, labels = draw(np.random.default_rng(3), 40, 52)
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(labels).save(tmp_path / "mask.png")
    return {"file_name": str(tmp_path / "image.png"), "sem_seg_file_name": str(tmp_path / "mask.png")}


def labels_of(image: torch.Tensor) -> torch.Tensor:
    """The labels that an unscaled image of `draw` was drawn from."""
    return torch.where(image[0] == 200, IGNORE, (image[0].long() - 20) // 70)


def test_nothing_changes_where_nothing_is_asked_for(cfg, record) -> None:
    before = dict(record)
    mapped = build_train_mapper(cfg)(record)
    assert record == before and "sem_seg_file_name" not in mapped
    assert mapped["image"].dtype == torch.uint8 and mapped["sem_seg"].dtype == torch.int64
    assert mapped["image"].shape == (3, 40, 52) and (mapped["height"], mapped["width"]) == (40, 52)
    assert (mapped["sem_seg"].numpy() == np.asarray(Image.open(record["sem_seg_file_name"]))).all()
    assert (mapped["image"].permute(1, 2, 0).numpy() == np.asarray(Image.open(record["file_name"]))).all()


def test_crops_and_flips_take_the_mask_along(cfg, record) -> None:
    cfg.INPUT.RANDOM_FLIP = "horizontal"
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", (24, 80)
    mapper, seen = SemSegMapper(cfg), set()
    for seed in range(20):
        np.random.seed(seed)
        mapped = mapper(record)
        assert mapped["image"].shape == (3, 24, 52)  # no larger than the image; the model pads it
        assert torch.equal(mapped["sem_seg"], labels_of(mapped["image"]))
        seen.add(mapped["sem_seg"].numpy().tobytes())
    assert len(seen) > 10


def test_scales_are_those_of_the_config_and_make_no_labels(cfg, record) -> None:
    cfg.INPUT.MIN_SIZE_TRAIN = (20, 64)
    mapper, shapes = SemSegMapper(cfg), set()
    for seed in range(10):
        np.random.seed(seed)
        mapped = mapper(record)
        shapes.add(tuple(mapped["sem_seg"].shape))
        assert mapped["image"].shape[1:] == mapped["sem_seg"].shape
        assert set(mapped["sem_seg"].unique().tolist()) <= {0, 1, 2, IGNORE}
        exact = labels_of(mapped["image"]) == mapped["sem_seg"]
        assert exact.float().mean() > 0.6  # all but the borders of the blocks, which are blurred
    assert shapes == {(20, 26), (64, 83)}


def test_a_crop_has_more_than_one_category(cfg, tmp_path: Path, record) -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[:, 50:], labels[:8] = 1, IGNORE
    Image.fromarray(np.zeros((60, 60, 3), np.uint8)).save(record["file_name"])
    Image.fromarray(labels).save(record["sem_seg_file_name"])
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", (20, 20)

    def share_of_mixed() -> float:
        mapper, mixed = SemSegMapper(cfg), 0
        for seed in range(40):
            np.random.seed(seed)
            crop = mapper(record)["sem_seg"]
            counts = torch.bincount(crop[crop != IGNORE], minlength=2)
            mixed += bool(counts.max() < 0.75 * counts.sum())
        return mixed / 40

    assert share_of_mixed() < 0.3
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 0.75
    assert share_of_mixed() > 0.6


@pytest.mark.parametrize("direction", ["horizontal", "vertical"])
def test_a_flip_changes_left_and_right(direction: str, cfg, record) -> None:
    cfg.DATASETS.TRAIN, cfg.INPUT.RANDOM_FLIP = ("mirrored_train",), direction
    mapper, original = SemSegMapper(cfg), torch.from_numpy(np.array(Image.open(record["sem_seg_file_name"]))).long()
    swapped = torch.tensor([0, 2, 1, *range(3, 256)])
    expected = swapped[original].flip(1) if direction == "horizontal" else original.flip(0)
    results = []
    for seed in range(12):
        np.random.seed(seed)
        results.append(mapper(record)["sem_seg"])
    flipped = [torch.equal(result, expected) for result in results]
    assert 0 < sum(flipped) < 12
    assert all(is_flipped or torch.equal(result, original) for is_flipped, result in zip(flipped, results))


def test_data_sets_that_differ_in_the_mirror_are_not_flipped_together(cfg) -> None:
    cfg.DATASETS.TRAIN, cfg.INPUT.RANDOM_FLIP = NAMES, "horizontal"
    with pytest.raises(DatasetError, match="set INPUT.RANDOM_FLIP none"):
        SemSegMapper(cfg)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
def test_colors_change_the_image_alone(image_format: str, cfg, record) -> None:
    cfg.INPUT.FORMAT = image_format
    plain = SemSegMapper(cfg)(record)
    cfg.INPUT.COLOR_AUG_SSD = True
    mapper = SemSegMapper(cfg)
    changed = 0
    for _ in range(8):
        mapped = mapper(record)
        assert torch.equal(mapped["sem_seg"], plain["sem_seg"])
        assert mapped["image"].dtype == torch.uint8 and mapped["image"].shape == plain["image"].shape
        changed += not torch.equal(mapped["image"], plain["image"])
    assert changed > 2


def test_a_mask_of_another_size_is_named(cfg, record) -> None:
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(record["sem_seg_file_name"])
    with pytest.raises(DatasetError, match=r"mask.png has \(40, 50\) pixels, its image .*image.png \(40, 52\)"):
        SemSegMapper(cfg)(record)


def test_data_workers_can_be_given_the_mapper(cfg, record) -> None:
    cfg.DATASETS.TRAIN, cfg.INPUT.RANDOM_FLIP = ("mirrored_train",), "horizontal"
    cfg.INPUT.COLOR_AUG_SSD = cfg.INPUT.CROP.ENABLED = True
    assert "image" in pickle.loads(pickle.dumps(SemSegMapper(cfg)))(record)


def test_other_architectures_have_the_mapper_of_instances(cfg) -> None:
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert type(build_train_mapper(cfg)) is InstanceMapper


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("RANDOM_FLIP", "diagonal"),
        ("CROP.TYPE", "round"),
        ("CROP.SIZE", (0.5, 1.5)),
        ("CROP.SIZE", (0.5,)),
        ("CROP.SIZE", (0.0, 0.5)),
        ("CROP.SINGLE_CATEGORY_MAX_AREA", 0.0),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(key: str, value: object, cfg) -> None:
    check_input_config(cfg)
    cfg.merge_from_list([f"INPUT.{key}", value])
    for check in (check_input_config, build_train_mapper):
        with pytest.raises(ConfigError, match=f"^INPUT.{key} is .*; allowed: "):
            check(cfg)


def test_pixels_and_shares_of_a_crop_are_told_apart(cfg) -> None:
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", (24, 80)
    check_input_config(cfg)
    for kind, size in (("absolute", (0.5, 0.5)), ("relative", (24, 80)), ("absolute_range", (80, 24))):
        cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = kind, size
        with pytest.raises(ConfigError, match="^INPUT.CROP.SIZE is "):
            check_input_config(cfg)


def test_colors_need_their_order(cfg) -> None:
    cfg.INPUT.FORMAT = "L"
    check_input_config(cfg)
    cfg.INPUT.COLOR_AUG_SSD = True
    with pytest.raises(ConfigError, match="^INPUT.FORMAT is 'L'; allowed: 'RGB', 'BGR'$"):
        check_input_config(cfg)
