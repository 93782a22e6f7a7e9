"""Predictions and ground truth drawn over images, and the grid of both."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.colormap import colormap
from PIL import Image

from fpt_d2.visualization import (
    Example,
    draw_ground_truth,
    draw_predictions,
    draw_predictions_grid,
    grid,
    labels,
    predictions,
)

METADATA = Metadata(name="two", thing_classes=["circle", "star"], stuff_classes=["sky", "grass"])
BOX = [20, 10, 60, 40]


def _image(height=80, width=100):
    return np.full((height, width, 3), 128, np.uint8)


def _outputs(*scores, height=80, width=100, with_masks=True):
    instances = Instances((height, width))
    instances.pred_boxes = Boxes(torch.tensor([BOX] * len(scores), dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.zeros(len(scores), dtype=torch.int64)
    instances.scores = torch.tensor(scores)
    if with_masks:
        instances.pred_masks = torch.zeros(len(scores), height, width, dtype=torch.bool)
        instances.pred_masks[:, 10:40, 20:60] = True
    return {"instances": instances}


def _annotation(**changes):
    polygon = [20, 10, 60, 10, 60, 40, 20, 40]
    annotation = {"bbox": BOX, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": [polygon]}
    return annotation | changes


def _changed(picture, scale=1):
    """Bounds (x0, y0, x1, y1) of what was drawn, in pixels of the image; None when nothing was."""
    ys, xs = np.nonzero((picture != 128).any(axis=2))
    return tuple(round(v / scale) for v in (xs.min(), ys.min(), xs.max(), ys.max())) if len(xs) else None


@pytest.mark.parametrize("scale", [1, 2.5])
@pytest.mark.parametrize("with_masks", [True, False])
def test_a_prediction_is_drawn_where_it_is(scale, with_masks):
    picture = draw_predictions(_image(), _outputs(0.9, with_masks=with_masks), METADATA, scale=scale)
    assert picture.shape == (80 * scale, 100 * scale, 3) and picture.dtype == np.uint8
    x0, y0, x1, y1 = _changed(picture, scale)
    assert abs(x0 - 20) <= 2 and abs(y1 - 40) <= 2
    assert 0 <= y0 <= 12 and abs(x1 - 60) <= 30  # the label stands above, and may stand out to the right
    inside = picture[int(25 * scale), int(40 * scale)]
    assert (inside != 128).any() == with_masks


def test_low_scores_are_left_out():
    assert _changed(draw_predictions(_image(), _outputs(0.49), METADATA)) is None
    assert _changed(draw_predictions(_image(), _outputs(0.49), METADATA, min_score=0.4)) is not None
    assert _changed(draw_predictions(_image(), _outputs(), METADATA)) is None


def test_ground_truth_and_prediction_of_a_category_share_a_color():
    truth = draw_ground_truth(_image(), {"annotations": [_annotation()]}, METADATA)
    drawn = draw_predictions(_image(), _outputs(0.9), METADATA)
    other = draw_ground_truth(_image(), {"annotations": [_annotation(category_id=1)]}, METADATA)
    assert (truth[25, 40] == drawn[25, 40]).all() and (truth[25, 40] != other[25, 40]).any()


def test_crowds_rle_and_images_without_annotation():
    rle = {"size": [80, 100], "counts": [0, 4000, 4000]}
    crowd = _annotation(iscrowd=1, segmentation=rle)
    picture = draw_ground_truth(_image(), {"annotations": [_annotation(), crowd]}, METADATA)
    assert (picture[70, 10] != 128).any()  # the RLE covers the left half
    assert _changed(draw_ground_truth(_image(), {"annotations": []}, METADATA)) is None
    assert _changed(draw_ground_truth(_image(), {}, METADATA)) is None


def test_a_ring_keeps_its_hole():
    outputs = _outputs(0.9)
    outputs["instances"].pred_masks[:, 20:30, 35:50] = False
    picture = draw_predictions(_image(), outputs, METADATA, scale=2)
    assert (picture[50, 85] == 128).all() and (picture[30, 60] != 128).any()


def _label_pixels(picture, color=None):
    """How many pixels a label has taken: those in the plain color of a class, here of the first."""
    color = np.round(colormap(rgb=True)[0]) if color is None else color
    return int((picture == color).all(axis=2).sum())


def _boxes(*boxes):
    outputs = _outputs(*[0.9] * len(boxes), with_masks=False)
    outputs["instances"].pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    return outputs


@pytest.mark.parametrize("box", [[88, 30, 100, 80], [70, 60, 100, 79], [0, 0, 10, 10]])
def test_a_label_at_the_border_is_moved_into_the_picture(box):
    picture, whole = (draw_predictions(_image(), _boxes(b), METADATA, scale=3) for b in (box, [10, 40, 60, 70]))
    assert _label_pixels(whole) > 300
    assert _label_pixels(picture) == pytest.approx(_label_pixels(whole), rel=0.1)


@pytest.mark.parametrize("box", [[30, 40, 60, 70], [60, 0, 100, 40], [90, 1, 100, 10]])
def test_labels_do_not_lie_over_each_other(box):
    pictures = [draw_predictions(_image(), _boxes(*[box] * number), METADATA, scale=3) for number in (1, 3)]
    one, three = map(_label_pixels, pictures)
    assert three == pytest.approx(3 * one, rel=0.1)


def test_without_supervision_labels_are_where_detectron2_places_them(monkeypatch, caplog):
    monkeypatch.setattr(labels.importlib.util, "find_spec", lambda name: None)
    labels.can_write_labels.cache_clear()
    picture = draw_predictions(_image(), _boxes(BOX), METADATA, scale=3)
    labels.can_write_labels.cache_clear()
    assert "pip install supervision" in caplog.text
    assert (picture.max(axis=2) < 60).sum() > 300  # its background there is nearly black


def test_categories_without_names_are_numbered():
    bare = Metadata(name="bare")
    assert _changed(draw_predictions(_image(), _outputs(0.9), bare)) is not None


@pytest.mark.parametrize("edge", [np.s_[:, :6], np.s_[:, -6:], np.s_[:6, :], np.s_[-6:, :]])
def test_the_name_of_a_class_at_an_edge_is_moved_into_the_picture(edge):
    scores = torch.ones(2, 60, 90)
    scores[1][edge] = 2
    names = Metadata(name="edge", stuff_classes=["", "grassland"], stuff_colors=[(200, 200, 200), (200, 200, 0)])
    picture = draw_predictions(_image(60, 90), {"sem_seg": scores}, names, scale=2)
    middle = torch.ones(2, 60, 90)
    middle[1][27:33] = 2
    whole = draw_predictions(_image(60, 90), {"sem_seg": middle}, names, scale=2)
    found, expected = (_label_pixels(p, (200, 200, 0)) for p in (picture, whole))
    assert expected > 300 and found == pytest.approx(expected, rel=0.1)


def test_keypoints_that_can_be_seen_are_drawn():
    points = np.array([[20.0, 30.0, 2.0], [60.0, 70.0, 0.0], [70.0, 20.0, 2.0]])
    outputs = _outputs(0.9, with_masks=False)
    without = draw_predictions(_image(), outputs, METADATA)
    outputs["instances"].pred_keypoints = torch.tensor(points, dtype=torch.float32)[None]
    annotation = _annotation()
    del annotation["segmentation"]
    truth = draw_ground_truth(_image(), {"annotations": [annotation]}, METADATA)
    with_points = draw_ground_truth(_image(), {"annotations": [annotation | {"keypoints": points.ravel()}]}, METADATA)
    for before, after in ((without, draw_predictions(_image(), outputs, METADATA)), (truth, with_points)):
        changed = (before != after).any(2)
        assert changed[30, 20] and changed[20, 70] and not changed[65:75, 55:65].any()


def test_semantic_and_panoptic_outputs_are_drawn():
    scores = torch.zeros(2, 80, 100)
    scores[0, :40], scores[1, 40:] = 1, 1
    picture = draw_predictions(_image(), {"sem_seg": scores}, METADATA)
    assert (picture[5, 5] != picture[75, 5]).any()
    segments = torch.zeros(80, 100, dtype=torch.int32)
    segments[:40], segments[40:] = 1, 2
    infos = [{"id": 1, "isthing": False, "category_id": 0}, {"id": 2, "isthing": True, "category_id": 1, "score": 0.9}]
    picture = draw_predictions(_image(), {"panoptic_seg": (segments, infos)}, METADATA)
    assert (picture[5, 5] != 128).any() and (picture[75, 5] != 128).any()
    assert _label_pixels(picture, np.round(colormap(rgb=True)[1])) > 50  # "star 90%", in the color of its class


def test_classes_are_tinted_in_their_colors():
    picture = np.random.default_rng(0).integers(256, size=(40, 60, 3), dtype=np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:20], labels[:, 20:] = 1, 255
    colors = np.array([(200, 0, 0), (0, 100, 0)])
    tinted = predictions.tint_classes(picture, labels, colors).astype(float)
    gray = picture.mean(axis=2, keepdims=True)
    for columns, color in ((np.s_[:, 1:20], colors[0]), (np.s_[:, 21:40], colors[1])):
        assert np.abs(tinted[columns] - (0.4 * gray[columns] + 0.6 * color)).max() <= 0.5
    assert (tinted[:, 41:] == picture[:, 41:]).all() and (tinted[:, [20, 40]] == 255).all()


def test_ground_truth_and_prediction_of_a_class_share_a_color(tmp_path):
    labels = np.repeat([[0, 1]], 30, axis=0).repeat(20, axis=1).astype(np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    outputs = {"sem_seg": torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 2).permute(2, 0, 1)}
    for metadata in (METADATA, Metadata(name="colors", stuff_classes=["a", "b"], stuff_colors=[(9, 9, 9), (0, 99, 0)])):
        truth = draw_ground_truth(_image(30, 40), {"sem_seg_file_name": str(tmp_path / "labels.png")}, metadata)
        assert (truth == draw_predictions(_image(30, 40), outputs, metadata)).all()
        assert (truth[15, 1] != truth[15, 38]).any()


def test_semantic_classes_are_named_in_the_legend_of_a_grid(tmp_path):
    names = ["sky", "grass", "unseen", "sea"]
    colors = [(250, 0, 250), (0, 250, 250), (250, 250, 0), (0, 0, 250)]
    metadata = Metadata(name="legend", stuff_classes=names, stuff_colors=colors)
    Image.fromarray(np.full((60, 80), 3, np.uint8)).save(tmp_path / "labels.png")
    scores = torch.zeros(4, 60, 80)
    scores[0, :30], scores[1, 30:] = 1, 1
    example = Example(_image(60, 80), {"sem_seg_file_name": str(tmp_path / "labels.png")}, {"sem_seg": scores})
    draw_predictions_grid([example], tmp_path / "grid.png", metadata)
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    shown = [(picture == color).all(axis=2).sum() for color in colors]
    assert shown[0] == shown[1] == shown[3] > 100 and shown[2] == 0


@pytest.mark.parametrize("num_images", [1, 2, 3, 8])
def test_grid_holds_every_pair_enlarged(tmp_path, num_images):
    sizes = [(96, 160), (160, 96), (100, 100), (61, 33), (300, 500), (97, 131), (128, 128), (160, 160)][:num_images]
    examples = [
        Example(np.full((h, w, 3), 100 + i, np.uint8), {"file_name": f"a/{i}.jpg"}, _outputs(height=h, width=w))
        for i, (h, w) in enumerate(sizes)
    ]
    path = tmp_path / "new" / "grid.png"
    draw_predictions_grid(examples, path, METADATA)
    picture = np.asarray(Image.open(path).convert("RGB"))
    for i, (height, width) in enumerate(sizes):
        scale = grid._CELL / max(height, width)
        expected = 2 * round(height * scale) * round(width * scale)
        assert (picture == 100 + i).all(axis=2).sum() == pytest.approx(expected, rel=0.01), f"image {i}"


def test_grid_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no image to draw"):
        draw_predictions_grid([], tmp_path / "grid.png", METADATA)
