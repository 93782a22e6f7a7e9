"""Semantic labels as colors over a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from detectron2.data import Metadata
from detectron2.utils.colormap import colormap
from PIL import Image

_ALPHA = 0.6


def class_colors(metadata: Metadata) -> np.ndarray:
    """(K, 3) RGB in 0..255 of the classes that ``metadata`` names: their ``stuff_colors``, else Detectron2's."""
    colors = metadata.get("stuff_colors") or colormap(rgb=True)
    return np.array([colors[i % len(colors)] for i in range(len(metadata.stuff_classes))])


def tint_classes(picture: np.ndarray, labels: Any, colors: np.ndarray) -> np.ndarray:
    """Tint a picture by class and draw the borders between classes in white.

    Args:
        picture: (H, W, 3), RGB, uint8.
        labels: (h, w) indices of classes, brought to the picture's size. Where one is not a class the picture stays.
        colors: (K, 3) RGB in 0..255.

    Returns:
        (H, W, 3), RGB, uint8.
    """
    height, width = picture.shape[:2]
    image = Image.fromarray(np.asarray(labels).astype(np.int32))
    labels = np.asarray(image.resize((width, height), Image.Resampling.NEAREST))
    known = (labels >= 0) & (labels < len(colors))
    # Only the picture's brightness, so that its own colors are not taken for those of classes.
    gray = picture.mean(axis=2, keepdims=True)
    tinted = (1 - _ALPHA) * gray + _ALPHA * colors[np.where(known, labels, 0)]
    tinted = np.where(known[..., None], tinted, picture)
    border = np.zeros((height, width), dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    tinted[border] = 255
    return np.round(tinted).astype(np.uint8)
