"""The demo's command line on generated images and videos."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
LOW = ["--confidence-threshold", "0.0"]


def _write_video(path, num_frames=3, size=(65, 48)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10.0, size)
    for i in range(num_frames):
        writer.write(np.full((size[1], size[0], 3), 60 * i % 256, np.uint8))
    writer.release()
    return str(path)


def _read_video(path):
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_images_globs_and_directories(demo, config_file, write_image, tmp_path):
    for name in ("one.png", "dir/a.jpg", "dir/b.JPG", "glob/c.bmp"):
        write_image(name)
    (tmp_path / "dir" / "notes.txt").write_text("no image")
    inputs = [str(tmp_path / "one.png"), str(tmp_path / "dir"), str(tmp_path / "glob" / "*.bmp")]
    out = tmp_path / "new" / "out"
    assert demo.main(["--config-file", config_file, "--input", *inputs, "--output", str(out), *LOW]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "b.JPG", "c.bmp", "one.png"]
    drawn, original = (np.asarray(Image.open(p)) for p in (out / "one.png", tmp_path / "one.png"))
    assert drawn.shape == original.shape and (drawn != original).any()


def test_script_reports_unreadable_inputs_by_name_and_fails_at_the_end(config_file, write_image, tmp_path):
    good = write_image("good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:900])
    (tmp_path / "folder").mkdir()
    names = ("empty.jpg", "cut.png", "missing.jpg", "no*such.png", "folder")
    inputs = [*(tmp_path / name for name in names), good]
    command = [sys.executable, ROOT / "demo" / "demo.py", "--config-file", config_file, "--input", *inputs]
    done = subprocess.run(
        [*map(str, command), "--output", str(tmp_path / "out"), "--opts", "MODEL.DEVICE", "cpu"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    report = done.stdout + done.stderr
    assert done.returncode == 1, report
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["good.png"]
    for name in names:
        assert f"{tmp_path / name} cannot be read: " in report or name == "folder"
    assert f"{tmp_path / 'folder'} is a folder without images" in report
    assert "Traceback" not in report and "Wrote 1 of 6 pictures" in report


def _save_hostile(folder):
    """Pictures of which each once ended a whole batch, and those that only have unusual names or sides."""
    noise = np.random.default_rng(0).integers(0, 255, (2, 3000, 3), dtype=np.uint8)
    names = {"100%d.png": (2, 40), "[a].png": (2, 40), "1x1.png": (1, 1), "\u00fc \u00e7.png": (2, 3)}
    for name, (height, width) in names.items():
        Image.fromarray(noise[:height, :width]).save(folder / name)
    Image.fromarray(noise[:1]).save(folder / "thin.png")
    Image.fromarray(noise[:1].transpose(1, 0, 2)).save(folder / "tall.png")
    Image.new("1", (13000, 13000)).save(folder / "bomb.png")
    Image.new("I", (9, 9)).save(folder / "integers.tif")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "text.jpg").write_text("no image")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    return list(names), ["thin.png", "tall.png", "bomb.png", "integers.tif", "loop.jpg", "text.jpg", "pipe.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_no_picture_ends_a_batch(demo, config_file, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    fine, skipped = _save_hostile(tmp_path / "in")
    out = tmp_path / "out"
    assert demo.main(["--config-file", config_file, "--input", str(tmp_path / "in"), "--output", str(out), *LOW]) == 1
    assert sorted(p.name for p in out.iterdir()) == sorted(fine)
    assert f"Wrote {len(fine)} of {len(fine) + len(skipped)} pictures" in caplog.text
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    for name in skipped:
        assert any(str(tmp_path / "in" / name) in error for error in errors[:-1]) and name in errors[-1]


def test_a_large_image_is_drawn_smaller(demo, config_file, tmp_path, monkeypatch, caplog):
    from fpt_d2.commands.drawing import draw

    monkeypatch.setattr(draw, "_MAX_DRAWN", 5000)
    Image.new("RGB", (200, 100)).save(tmp_path / "a.png")
    argv = ["--config-file", config_file, "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out.png")]
    assert demo.main(argv) == 0
    assert Image.open(tmp_path / "out.png").size == (100, 50)
    assert "a.png of 200 x 100 pixels is scaled to 100 x 50" in caplog.text


def test_sixteen_bits_are_not_drawn_white(demo, config_file, tmp_path):
    Image.fromarray(np.full((48, 64), 20000, np.uint16)).save(tmp_path / "a.png")
    argv = ["--config-file", config_file, "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "out.png")]
    assert demo.main([*argv, "--confidence-threshold", "1.0"]) == 0
    assert np.asarray(Image.open(tmp_path / "out.png")).mean() == pytest.approx(20000 / 257, abs=1)


def test_exif_orientation_is_applied(demo, config_file, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (64, 40)).save(tmp_path / "turned.jpg", exif=exif)
    out = tmp_path / "out.png"
    assert demo.main(["--config-file", config_file, "--input", str(tmp_path / "turned.jpg"), "--output", str(out)]) == 0
    assert Image.open(out).size == (40, 64)


@pytest.mark.parametrize("output", ["drawn.mp4", "drawn.avi", "folder"])
def test_video(demo, config_file, tmp_path, output):
    source = _write_video(tmp_path / "clip.mp4")
    argv = ["--config-file", config_file, "--video-input", source, "--output", str(tmp_path / output)]
    assert demo.main([*argv, "--confidence-threshold", "1"]) == 0
    written = tmp_path / output / "clip.mp4" if output == "folder" else tmp_path / output
    frames, fps = _read_video(written)
    assert len(frames) == 3 and fps == 10 and frames[0].shape == _read_video(source)[0][0].shape
    assert frames[2].mean() > frames[0].mean() + 60  # they are the source's frames, in its order


def _write_noise(path, num_frames=20, size=(96, 128)):
    """Frames that no codec makes small."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, size[::-1])
    for frame in np.random.default_rng(0).integers(0, 255, (num_frames, *size, 3), dtype=np.uint8):
        writer.write(frame)
    writer.release()
    return str(path)


def test_a_video_that_is_cut_short_is_said_with_both_counts(demo, config_file, tmp_path, caplog):
    source = Path(_write_noise(tmp_path / "clip.avi"))
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    out = tmp_path / "out.mp4"
    assert demo.main(["--config-file", config_file, "--video-input", str(source), "--output", str(out), *LOW]) == 1
    held = len(_read_video(out)[0])
    assert 0 < held < 20 and f"clip.avi announces 20 frames, of which {held} can be read" in caplog.text


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov", "mp4"])
def test_a_video_on_a_full_disk_is_an_error(demo, config_file, tmp_path, suffix, caplog, capfd):
    """The limit of the size of a file stands in for the end of the disk: OpenCV is silent about both."""
    resource = pytest.importorskip("resource")
    argv = ["--config-file", config_file, "--video-input", _write_noise(tmp_path / "clip.avi")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        with pytest.raises(SystemExit) as end:
            demo.main([*argv, "--output", str(tmp_path / f"out.{suffix}")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    counted, refused = "it holds .* of 20 frames; is its disk full?", "File too large after .* frames"
    assert re.search(rf"out.{suffix} is not whole: ({counted}|{refused})", str(end.value)) and end.value.code == 2
    assert "Wrote" not in caplog.text


def test_a_disk_without_space_ends_a_video_at_once(demo, config_file, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 0))
    argv = ["--config-file", config_file, "--video-input", _write_video(tmp_path / "clip.mp4")]
    with pytest.raises(SystemExit, match="out.mp4 is not whole: its disk is full after 0 frames") as end:
        demo.main([*argv, "--output", str(tmp_path / "out.mp4")])
    assert end.value.code == 2


def test_a_video_without_frames_is_one_sentence(demo, config_file, tmp_path):
    source = _write_video(tmp_path / "clip.avi", num_frames=0)
    with pytest.raises(SystemExit, match="clip.avi (does not have a frame that can be read|cannot be read)") as end:
        demo.main(["--config-file", config_file, "--video-input", source, "--output", str(tmp_path / "out.mp4")])
    assert end.value.code == 2 and not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("source", ["missing.mp4", "broken.mp4"])
def test_unreadable_video_is_one_sentence(demo, config_file, tmp_path, source):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    path = str(tmp_path / source)
    with pytest.raises(SystemExit, match=f"{source} cannot be read"):
        demo.main(["--config-file", config_file, "--video-input", path, "--output", str(tmp_path / "out.mp4")])


def test_without_a_display_output_is_asked_for(demo, config_file, write_image, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(SystemExit, match="--output"):
        demo.main(["--config-file", config_file, "--input", str(write_image("a.png"))])


@pytest.mark.parametrize(
    ("config", "opts", "message"),
    [
        ("missing.yaml", [], "no config file missing.yaml"),
        (None, ["MODEL.WEIGHTS", "missing.pth"], "no weights missing.pth"),
        (None, ["MODEL.WEIGHTS", ""], "no trained model"),
        (None, ["MODEL.WEIGHTS", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"], "no trained model"),
        (None, ["OUTPUT_DIR", "nowhere"], "no trained model in nowhere"),
        (None, ["MODEL.NO_SUCH_KEY", "1"], "MODEL.NO_SUCH_KEY"),
        (None, ["MODEL.DEVICE"], "MODEL.DEVICE"),
    ],
)
def test_wrong_config_and_weights_are_one_sentence(demo, config_file, write_image, tmp_path, config, opts, message):
    argv = ["--config-file", config or config_file, "--input", str(write_image("a.png")), "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match=message):
        demo.main([*argv[:-1], str(tmp_path / "out"), "--opts", *opts])
