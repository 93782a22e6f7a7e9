"""Label images are read as indices, and know their colors and their mirror."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from fpt_d2.data import DatasetError
from fpt_d2.data.labels import flipped_classes, label_colors, read_labels

LABELS = np.array([[0, 1, 2], [20, 255, 15]], dtype=np.uint8)


def test_indices_are_read_with_and_without_a_palette(tmp_path: Path) -> None:
    gray, colored = Image.fromarray(LABELS), Image.fromarray(LABELS)
    colored.putpalette([channel for color in label_colors(256) for channel in color])
    for image in (gray, colored):
        image.save(tmp_path / "labels.png")
        assert Image.open(tmp_path / "labels.png").mode == image.mode
        labels = read_labels(tmp_path / "labels.png")
        assert labels.dtype == np.uint8 and (labels == LABELS).all()
        labels[0, 0] = 3  # Detectron2's evaluator writes into what it is given


def test_what_is_no_label_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "labels.png"
    with pytest.raises(DatasetError, match="labels.png cannot be read"):
        read_labels(path)
    for kind, mode in ((np.zeros((2, 3, 3), np.uint8), "RGB"), (LABELS.astype(np.uint16), "I;16"), (LABELS > 3, "1")):
        Image.fromarray(kind).save(path)
        with pytest.raises(DatasetError, match=f"labels.png is not an 8-bit label image but of mode {mode}"):
            read_labels(path)
    Image.fromarray(np.random.default_rng(0).integers(255, size=(90, 90), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DatasetError, match="labels.png cannot be read"):
        read_labels(path)


@pytest.mark.parametrize(
    ("format", "orientation", "says"), [("JPEG", 1, "is a JPEG"), ("PNG", 3, "turned by its EXIF")]
)
def test_masks_of_which_labels_would_be_elsewhere(format: str, orientation: int, says: str, tmp_path: Path) -> None:
    """Of an image and a mask that are both to be turned by 180 degrees only the image would be."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(LABELS).save(tmp_path / "labels", format, exif=exif)
    with pytest.raises(DatasetError, match=says):
        read_labels(tmp_path / "labels")


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"])
def test_masks_with_exif_data_that_turn_nothing_are_read(exif: bytes, tmp_path: Path) -> None:
    Image.fromarray(LABELS).save(tmp_path / "labels.png", exif=exif)
    assert (read_labels(tmp_path / "labels.png") == LABELS).all()


def test_the_colors_are_pascal_vocs() -> None:
    colors = label_colors(256)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
    known |= {20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: colors[label] for label in known} == known
    assert len(set(colors)) == 256


def test_left_and_right_change_in_the_mirror() -> None:
    flipped = flipped_classes(["lip_sem_seg_train", "lip_sem_seg_val"])
    names = MetadataCatalog.get("lip_sem_seg_train").stuff_classes
    assert [flipped[other] for other in flipped] == list(range(20))
    moved = {names[i]: names[j] for i, j in enumerate(flipped) if i != j}
    assert moved == {
        f"{side}-{part}": f"{other}-{part}"
        for part in ("arm", "leg", "shoe")
        for side, other in (("left", "right"), ("right", "left"))
    }
    assert flipped_classes(["voc_2012_sem_seg_val"]) is None
    with pytest.raises(DatasetError, match="lip_sem_seg_val, voc_2012_sem_seg_val differ.*set INPUT.RANDOM_FLIP none"):
        flipped_classes(["lip_sem_seg_val", "voc_2012_sem_seg_val"])
    MetadataCatalog.get("wrong").set(stuff_classes=["arm"], stuff_flip_map=[("arm", "leg")])
    with pytest.raises(DatasetError, match=r"stuff_flip_map of 'wrong' has \(arm, leg\)"):
        flipped_classes(["wrong"])
    MetadataCatalog.remove("wrong")
