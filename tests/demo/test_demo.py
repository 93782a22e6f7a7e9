"""The demo's command line on generated images and videos."""

import os
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
        writer.write(np.full((size[1], size[0], 3), 60 * i, np.uint8))
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
        assert f"Skipped {tmp_path / name}: " in report
    assert f"{tmp_path / 'folder'} is a folder without images" in report
    assert "Traceback" not in report and "Wrote 1 of 6 pictures" in report


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
    argv = ["--config-file", config_file, "--video-input", source, "--output", str(tmp_path / output), *LOW]
    assert demo.main(argv) == 0
    written = tmp_path / output / "clip.mp4" if output == "folder" else tmp_path / output
    frames, fps = _read_video(written)
    assert len(frames) == 3 and fps == 10 and frames[0].shape == _read_video(source)[0][0].shape
    assert frames[2].mean() > frames[0].mean() + 60  # they are the source's frames, in its order


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
