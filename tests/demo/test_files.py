"""Which files the demo reads and writes."""

import os

import cv2
import numpy as np
import pytest


@pytest.fixture
def files(demo):
    from fpt_d2.commands.drawing import files

    return files


@pytest.fixture
def video(demo):
    from fpt_d2.commands.drawing import video

    return video


def test_inputs_are_listed_once_in_order(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.jpg", "[x].jpg", "x.jpg", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    found = files.collect_images(["b.png", "*.jpg", "[x].jpg", "b.png", "none*", "empty"])
    assert [str(p) for p in found] == ["b.png", "[x].jpg", "a.jpg", "x.jpg", "none*", "empty"]


def test_inputs_of_one_name_do_not_overwrite_each_other(files, tmp_path):
    images = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "c/X.JPG", "x_2.jpg", "d/x.png", "e/x")]
    planned = files.plan_outputs(images, str(tmp_path / "out"))
    assert [p.name for p in planned] == ["a_x.jpg", "b_x.jpg", "c_X.JPG", "x_2.jpg", "d_x.png", "e_x.png"]
    assert len({str(p).lower() for p in planned}) == 6 and (tmp_path / "out").is_dir()


def test_an_input_is_never_replaced(files, video, tmp_path):
    image = tmp_path / "x.jpg"
    image.touch()
    for output in (tmp_path, image):
        with pytest.raises(files.UserError, match="would replace the input"):
            files.plan_outputs([image], str(output))
    clip = tmp_path / "x.mp4"
    clip.touch()
    for output in (tmp_path, clip):
        with pytest.raises(files.UserError, match="would replace the input"):
            video.VideoWriter(str(output), str(clip), 10)


def test_links_to_an_input_or_to_each_other_are_refused(files, video, tmp_path):
    images = [tmp_path / "in" / name for name in ("x.jpg", "y.jpg")]
    out = tmp_path / "out"
    for folder in (tmp_path / "in", out):
        folder.mkdir()
    for image in images:
        image.touch()
    for link in (os.link, os.symlink):
        link(images[1], out / "x.jpg")  # the picture of one input would be written over another
        with pytest.raises(files.UserError, match="would replace the input .*x.jpg"):
            files.plan_outputs(images, str(out))
        (out / "x.jpg").unlink()
    (out / "x.jpg").touch()
    os.link(out / "x.jpg", out / "y.jpg")
    with pytest.raises(files.UserError, match="y.jpg is a folder, or a link to another picture"):
        files.plan_outputs(images, str(out))
    clip = tmp_path / "clip.mp4"
    clip.touch()
    os.link(clip, out / "drawn.mp4")
    with pytest.raises(files.UserError, match="would replace the input"):
        video.VideoWriter(str(out / "drawn.mp4"), str(clip), 10)


def test_folders_may_have_the_names_of_patterns(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("a[1]", "a1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jpg").touch()
    assert [str(p) for p in files.collect_images(["a[1]/*.jpg", "a[1]", "a?/*"])] == ["a[1]/x.jpg", "a1/x.jpg"]


@pytest.mark.parametrize("output", ["drawn.xyz", "drawn.txt", "drawn.jp2"])
def test_an_output_of_another_kind_is_one_sentence(files, video, tmp_path, output):
    with pytest.raises(files.UserError, match=f"{output} ends in none of .bmp"):
        files.plan_outputs([tmp_path / "a.jpg"], str(tmp_path / output))
    with pytest.raises(files.UserError, match=f"{output} ends in none of .avi"):
        video.VideoWriter(str(tmp_path / output), "in.mp4", 10)
    assert files.plan_outputs([tmp_path / "a.jpg"], f"{tmp_path / output}/") == [tmp_path / output / "a.jpg"]
    assert files.plan_outputs([tmp_path / "a.jpg"], str(tmp_path / "run.v2"))[0].parent.name == "run.v2"


def test_an_output_that_can_be_no_folder_is_one_sentence(files, video, tmp_path):
    file = tmp_path / "existing"
    file.touch()
    with pytest.raises(files.UserError, match="--output: no folder .*existing can be made"):
        files.plan_outputs([tmp_path / "a.jpg"], str(file))
    with pytest.raises(files.UserError, match="--output: no folder .*existing can be made"):
        video.VideoWriter(str(file / "clip.mp4"), "in.mp4", 10)


def test_one_file_for_several_images_is_refused(files, tmp_path):
    with pytest.raises(files.UserError, match="give a folder"):
        files.plan_outputs([tmp_path / "a.jpg", tmp_path / "b.jpg"], str(tmp_path / "out.png"))


def test_a_video_that_no_codec_can_write_is_one_sentence(files, video, tmp_path):
    writer = video.VideoWriter(str(tmp_path / "clip.mp4"), "in.mp4", 10)
    writer.path = tmp_path / "clip.nosuchformat"
    with pytest.raises(files.UserError, match="mp4v, avc1"):
        writer.write(np.zeros((48, 64, 3), np.uint8))


def test_an_opencv_without_windows_is_one_sentence(files, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")

    def refuse(name):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(files.UserError, match="cannot open windows.*--output"):
        files.check_display()


def test_a_picture_that_cannot_be_written_is_one_sentence(files, tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(files.UserError, match="The picture .*folder.png cannot be written .*directory"):
        files.save(np.zeros((4, 4, 3), np.uint8), tmp_path / "folder.png")
