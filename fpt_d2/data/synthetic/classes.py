"""What is in the synthetic data sets. The order is that of ids and labels and enters the seed: append, never insert."""

from __future__ import annotations

# Shapes; their outlines are in `outlines.OUTLINES`.
CATEGORIES = ("circle", "square", "triangle", "star", "ring", "cross")

# The keypoints: the tips of a star, clockwise, every other corner of its outline.
KEYPOINT_CATEGORY = "star"
KEYPOINTS = ("top", "upper_right", "lower_right", "lower_left", "upper_left")
KEYPOINT_FLIP_MAP = (("upper_right", "upper_left"), ("lower_right", "lower_left"))

# Backgrounds of the shapes.
PATTERNS = ("gradient", "stripes", "checks", "clouds")

# Classes of the context scenes and their colors. The last two look alike.
CONTEXT_CLASSES = {
    "ground": (60, 60, 60),
    "circle": (86, 180, 233),
    "triangle": (0, 158, 115),
    "star": (240, 228, 66),
    "cross": (204, 121, 167),
    "square by star": (230, 159, 0),
    "square by cross": (120, 60, 200),
}

# Detection in context, by difficulty: the ordinary classes, of which the last two are the cues, and the two that a cue
# decides.
CONTEXT_DETECTION = {
    "presence": (("circle", "triangle", "star", "cross"), ("square by star", "square by cross")),
    "matching": (
        ("circle", "triangle", "plain star", "dotted star"),
        ("square of plain star", "square of dotted star"),
    ),
    "relation": (("circle", "triangle", "large square", "large cross"), ("like the large one", "unlike the large one")),
}
