"""Images of every depth arrive with the range that they have, or are refused in words."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper, detection_utils
from PIL import Image

from fpt_d2.data import DatasetError, InstanceMapper, images, read_image
from fpt_d2.data.names import distinct_names

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)
IN_8_BITS = np.rint(255 * RAMP).astype(np.uint8)


def save(pixels: np.ndarray, path: Path, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("format", ["RGB", "BGR", "L"])
def test_ordinary_images_are_detectron2s(mode: str, format: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.stack([IN_8_BITS, IN_8_BITS[::-1], IN_8_BITS.T.reshape(48, 64)], axis=-1)).convert(mode)
    path = tmp_path / ("image.png" if mode in ("1", "L", "P", "LA", "RGB", "RGBA") else "image.tif")
    image.save(path)
    assert (read_image(path, format) == detection_utils.read_image(str(path), format)).all()


def sixteen_bits(path: Path, kind: str) -> None:
    pixels = np.rint(65535 * RAMP).astype(np.uint16)
    if kind == "big-endian.tif":
        save(pixels.astype(">u2"), path)
    elif kind.endswith("pgm"):
        path.write_bytes(b"P5 64 48 65535\n" + pixels.astype(">u2").tobytes())
    elif kind.startswith("color"):
        cv2.imwrite(str(path), np.stack([pixels] * 3, axis=-1))
    elif kind.startswith("white is 0"):
        save(65535 - pixels, path, tiffinfo={0x0106: 0})
    else:
        save(pixels, path)


@pytest.mark.parametrize("kind", ["gray.png", "gray.tif", "big-endian.tif", "gray.pgm", "gray.jp2", "color.png"])
@pytest.mark.parametrize("format", ["RGB", "BGR", "L"])
def test_sixteen_bits_keep_their_range(kind: str, format: str, tmp_path: Path) -> None:
    sixteen_bits(tmp_path / kind, kind)
    read = read_image(tmp_path / kind, format)
    assert read.dtype == np.uint8 and read.shape == (48, 64, 1 if format == "L" else 3)
    assert np.abs(read.astype(int) - IN_8_BITS[:, :, None]).max() <= 1  # PIL cuts colors, where gray is rounded


def test_twelve_bits_of_a_tiff_keep_their_range(tmp_path: Path) -> None:
    values = np.rint(4095 * RAMP).astype(np.uint16).reshape(-1, 2)
    packed = np.stack([values[:, 0] >> 4, (values[:, 0] & 15) << 4 | values[:, 1] >> 8, values[:, 1] & 255], axis=-1)
    # Width, height, bits, no compression, black is 0, and of the only strip: offset, channels, rows, bytes.
    tags = {256: 64, 257: 48, 258: 12, 259: 1, 262: 1, 273: 122, 277: 1, 278: 48, 279: packed.size}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path = tmp_path / "twelve.tif"
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4)
    path.write_bytes(head + packed.astype(np.uint8).tobytes())
    assert np.abs(read_image(path, "L")[:, :, 0].astype(int) - IN_8_BITS).max() <= 1


def test_a_tiff_whose_white_is_zero_is_not_a_negative(tmp_path: Path) -> None:
    sixteen_bits(tmp_path / "a.tif", "white is 0")
    with Image.open(tmp_path / "a.tif") as image:
        if image.tag_v2[0x0106] != 0:
            pytest.skip("this PIL does not write it")
    assert (read_image(tmp_path / "a.tif", "L")[:, :, 0] == IN_8_BITS).all()


@pytest.mark.parametrize(("low", "high", "expected"), [(0, 1, 255), (0, 0.5, 127.5), (0, 255, 255), (3, 200, 200)])
def test_floats_in_the_two_usual_ranges(low: float, high: float, expected: float, tmp_path: Path) -> None:
    read = read_image(save((low + (high - low) * RAMP).astype(np.float32), tmp_path / "a.tif"), "RGB")
    assert read.dtype == np.uint8 and read.max() == pytest.approx(expected, abs=1)
    assert (np.diff(read[:, :, 0].astype(int).ravel()) >= 0).all()


@pytest.mark.parametrize(
    ("pixels", "sentence"),
    [
        (2 * RAMP.astype(np.float32), "floats (mode F) from 0 to 2"),
        (RAMP.astype(np.float32) - 0.5, "floats (mode F) from -0.5 to 0.5"),
        (1000 * RAMP.astype(np.float32), "floats (mode F) from 0 to 1000"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "floats (mode F) from nan"),
        (np.where(RAMP > 0.5, np.inf, RAMP).astype(np.float32), "floats (mode F) from 0 to inf"),
        ((1e6 * RAMP).astype(np.int32), "integers of 32 bits (mode I)"),
    ],
)
def test_what_has_no_known_white_is_refused(pixels: np.ndarray, sentence: str, tmp_path: Path) -> None:
    path = save(pixels, tmp_path / "a.tif")
    with pytest.raises(DatasetError) as error:
        read_image(path, "RGB")
    assert str(error.value).startswith(f"The image {path} cannot be read: it has {sentence}")


def write_nothing(path: Path) -> None:
    path.touch()


def write_text(path: Path) -> None:
    path.write_text("an image")


def write_a_cut_jpeg(path: Path) -> None:
    save(IN_8_BITS, path, format="JPEG")
    path.write_bytes(path.read_bytes()[:400])


def write_a_cut_png(path: Path) -> None:
    save(np.rint(65535 * RAMP).astype(np.uint16), path, format="PNG")
    path.write_bytes(path.read_bytes()[:400])


def write_color_floats(path: Path) -> None:
    cv2.imwrite(str(path.with_suffix(".tif")), np.stack([RAMP] * 3, axis=-1).astype(np.float32))
    path.with_suffix(".tif").replace(path)


def write_postscript(path: Path) -> None:
    save(IN_8_BITS, path, format="EPS")


def write_a_turned_tiff(path: Path) -> None:
    save(IN_8_BITS, path, format="TIFF", tiffinfo={0x0112: 6})


def write_a_bomb(path: Path) -> None:
    Image.new("1", (13000, 13000)).save(path, format="PNG")


def write_a_larger_bomb(path: Path) -> None:
    Image.new("1", (60000, 4000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_nothing, "not an image"),
        (write_text, "not an image"),
        (write_a_cut_jpeg, "truncated"),
        (write_a_cut_png, ""),
        (write_color_floats, "floats in color"),
        (write_postscript, "PostScript"),
        (write_a_turned_tiff, "save it upright"),
        (write_a_bomb, "13000 x 13000 pixels, more than 134 million: cut it into tiles"),
        (write_a_larger_bomb, "more than 134 million pixels: cut it into tiles"),
        (Path.mkdir, "it is a folder, not a file"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (lambda path: None, "No such file"),
    ],
)
def test_what_cannot_be_read_is_named(write: Any, words: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    images._ignore_bomb_warnings.cache_clear()  # pytest gives every test filters of its own
    path = tmp_path / "100% [a] \u00fc.jpg"
    write(path)
    with pytest.raises(DatasetError) as error:
        read_image(path, "RGB")
    assert str(error.value).startswith(f"The image {path} cannot be read: ") and words in str(error.value)
    assert not [warning for warning in recwarn if warning.category is Image.DecompressionBombWarning]


def test_ten_thousand_by_ten_thousand_pixels_are_read(tmp_path: Path) -> None:
    Image.new("L", (10_000, 10_000), 7).save(tmp_path / "a.png")
    assert images.MAX_PIXELS > 10_000**2
    read = read_image(tmp_path / "a.png", "L")
    assert read.shape == (10_000, 10_000, 1) and (read[::999] == 7).all()


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_the_first_of_several_frames_is_read(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "blue", "green")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    red, green, blue = read_image(tmp_path / f"a.{suffix}", "RGB")[5, 5]
    assert red > 240 and green < 10 and blue < 10


def test_an_image_of_8_bits_in_16_is_said_to_be_black(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save(IN_8_BITS.astype(np.uint16), tmp_path / "a%s\x1b.png")
    assert read_image(path, "RGB").max() <= 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{tmp_path}/a%s\\x1b.png: image of 16 bits that is read as black")
    read_image(save(257 * IN_8_BITS.astype(np.uint16), tmp_path / "b.png"), "RGB")
    assert len(caplog.records) == 1


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    path = save(np.rint(65535 * RAMP).astype(np.uint16), tmp_path / "a.png")
    return {"file_name": str(path), "height": 48, "width": 64, "image_id": 1, "annotations": []}


def test_the_mapper_reads_as_detectron2s_but_for_the_range(record: dict[str, Any]) -> None:
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN = (48,)
    for is_train in (True, False):
        mapped = {}
        for mapper in (InstanceMapper(cfg, is_train=is_train), DatasetMapper(cfg, is_train=is_train)):
            np.random.seed(0)
            mapped[type(mapper)] = mapper(record)
        assert mapped[InstanceMapper].keys() == mapped[DatasetMapper].keys()
        assert mapped[InstanceMapper]["image"].shape == mapped[DatasetMapper]["image"].shape
        assert mapped[InstanceMapper]["image"].float().mean() == pytest.approx(127.5, abs=1)
        assert mapped[DatasetMapper]["image"].float().mean() > 250  # what this project is there to mend


def test_the_mapper_names_what_does_not_fit(record: dict[str, Any], tmp_path: Path) -> None:
    mapper = InstanceMapper(get_cfg(), is_train=False)
    with pytest.raises(DatasetError, match=r"a.png has 64 x 48 pixels, turned as EXIF data may say, not 48 x 64"):
        mapper(record | {"height": 64, "width": 48})
    thin = save(np.zeros((1, 3000, 3), np.uint8), tmp_path / "thin.png")
    with pytest.raises(DatasetError, match="thin.png of 3000 x 1 pixels is too thin: scaled to a long side of 1333"):
        mapper({"file_name": str(thin)})
    fine = save(np.zeros((1, 2600, 3), np.uint8), tmp_path / "fine.png")
    assert mapper({"file_name": str(fine)})["image"].shape == (3, 1, 1333)


@pytest.mark.parametrize(("size", "max_size"), [((1, 2666), 1333), ((1, 2667), 1333), ((3, 700), 100), ((2, 500), 128)])
def test_what_vanishes_is_what_detectron2_scales_to_nothing(size: tuple[int, int], max_size: int) -> None:
    scaled = detection_utils.T.ResizeShortestEdge.get_output_shape(*size, 800, max_size)
    assert images.vanishes(size, max_size) == (min(scaled) == 0)


def test_names_that_would_meet_have_their_folders() -> None:
    files = ["/data/a/1.png", "/data/b/1.png", "/data/b/2.jpg"]
    assert list(distinct_names(files).values()) == ["a_1", "b_1", "b_2"]
    assert list(distinct_names(files[1:]).values()) == ["1", "2"]
    assert list(distinct_names(["x/1.png", "x/1.jpg", "x/1.PNG"]).values()) == ["1", "1_2", "1_3"]
    suffix = lambda file: Path(file).suffix  # noqa: E731
    assert list(distinct_names(["x/1.png", "x/1.jpg"], suffix).values()) == ["1.png", "1.jpg"]
    assert list(distinct_names(["x/1.png", "x/1.jpg", "x/1.PNG"], suffix).values()) == ["1.png", "1.jpg", "1_2.PNG"]
    for clash in (
        ["a/b_1.png", "a_b/1.png"],
        ["A/1.png", "a/1.png"],
        ["1.png", "/1.png"],
        ["1/a.png", "a.png", "1_a.png"],
    ):
        names = distinct_names(clash)
        assert len({name.lower() for name in names.values()}) == len(clash)
    assert distinct_names(["a.png", "a.png"]) == {"a.png": "a"} and distinct_names([]) == {}
