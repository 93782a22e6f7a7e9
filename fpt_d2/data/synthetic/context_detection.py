"""One synthetic scene for detection, in which the class of some objects is told by a cue far away from them.

The cue stands at one end of a long image, the objects that it decides at the other; circles and triangles, which
decide nothing, stand anywhere. Nothing but the cue tells the two context classes apart, and either is as frequent. What
the cue is makes the difficulty:

presence: a large star or a large cross. Small squares are of one class where there is a star, of another where a cross.
matching: three stars of different colors, some with a dark dot. A square is of the class of the star of its own color.
relation: a large square or cross. A small square or cross is of one class if its outline is that of the large one, of
another if not.

Of the last two there are *easy* scenes as well, in which the cue tells without a comparison: all stars are alike, or
all small shapes are squares. Training needs some: where no fact by itself tells anything about the class, the gradient
does not say where to look either.

Shape legend: H, W are the image's height and width. Lengths that are not in pixels are in short sides of the image.
"""

from __future__ import annotations

import numpy as np

from .backgrounds import draw_background
from .classes import CATEGORIES
from .placing import Look, Shape, paint, place, whole_mask
from .scene import Scene, SceneObject, hue_range

ASPECT = (2.8, 3.2)
_END = 0.6  # from either end of the image: there stand the cue, and the objects that it decides
# From the edge of the cue to that of the nearest object that it decides, at least. At a short side of 96 pixels these
# are 153. A position of a ResNet-18's fourth stage sees 105 to either side; of its fifth 217, with little weight there.
MIN_DISTANCE = ASPECT[0] - 2 * _END
# Radii of circumscribed circles.
_SMALL, _MEDIUM, _LARGE, _LARGEST = (0.07, 0.09), (0.10, 0.13), (0.13, 0.16), (0.25, 0.29)
_ORDINARY = (0.06, 0.2)
_MARGIN = 0.1  # around a shape, that its shadow may reach
_SAME_HUE = 0.02  # to either side
_ANY_HUE = (0.0, 1.0)


class _Layout:
    """Where the shapes of a scene stand, in pixels along the image's long side and its short side."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.short, self.long = sorted((height, width))
        self.shapes: list[Shape] = []
        self._rng = rng

    def add_cue(self, look: Look, radius_range: tuple[float, float], slot: tuple[int, int] = (0, 1)) -> None:
        """Place a cue in the strip ``slot[0]`` of ``slot[1]`` equal ones: there is always room."""
        lowest, highest = slot[0] / slot[1], (slot[0] + 1) / slot[1]
        self._place(look, radius_range, (0, lowest * self.short, _END * self.short, highest * self.short))

    def add_object(self, look: Look, radius_range: tuple[float, float]) -> None:
        """Place an object that a cue decides, where there is room."""
        self._place(look, radius_range, (self.long - _END * self.short, 0, self.long, self.short))

    def add_anywhere(self, look: Look, radius_range: tuple[float, float]) -> None:
        self._place(look, radius_range, (0, 0, self.long, self.short))

    def _place(self, look: Look, radius_range: tuple[float, float], region: tuple[float, float, float, float]) -> None:
        place(self._rng, self.shapes, look, (radius_range[0] * self.short, radius_range[1] * self.short), region)


def draw_context_detection(
    rng: np.random.Generator, height: int, width: int, difficulty: str, *, easy: bool = False, exchanged: bool = False
) -> Scene:
    """Draw a scene of a ``difficulty``, a key of `classes.CONTEXT_DETECTION`; there are its objects' categories.

    With ``easy`` no comparison is needed; a scene of presence needs none anyway.
    With ``exchanged`` the cue is the other one: star and cross, dot and no dot, large square and large cross change
    places. From the same ``rng`` that gives the same image but for the cue, and the other class of every object that
    the cue decides.
    """
    layout = _Layout(rng, height, width)
    _ARRANGE[difficulty](rng, layout, easy, exchanged)
    _add_ordinary(rng, layout)
    mirrored = rng.random() < 0.5
    image, background = draw_background(rng, height, width)
    objects = []
    for shape in layout.shapes:
        if mirrored:
            shape.center[0] = layout.long - shape.center[0]
        if height > width:
            shape.center[:] = shape.center[::-1].copy()
        mask, window = paint(rng, image, shape, margin=int(np.ceil(_MARGIN * layout.short)))
        visible = whole_mask(mask, window, height, width)
        objects.append(SceneObject(shape.look.label, [visible], visible, float(np.count_nonzero(visible))))
    return Scene(np.round(255 * image).astype(np.uint8), objects, background)


def _add_ordinary(rng: np.random.Generator, layout: _Layout) -> None:
    for _ in range(rng.integers(4, 8)):
        label = int(rng.integers(2))
        radius = float(_ORDINARY[0] * (_ORDINARY[1] / _ORDINARY[0]) ** rng.random())
        layout.add_anywhere(_look(label, ("circle", "triangle")[label]), (radius, radius))


def _arrange_presence(rng: np.random.Generator, layout: _Layout, easy: bool, exchanged: bool) -> None:
    which = int(rng.integers(2)) ^ exchanged
    layout.add_cue(_look(2 + which, ("star", "cross")[which]), _LARGEST)
    for _ in range(rng.integers(2, 5)):
        layout.add_object(_look(4 + which, "square"), _MEDIUM)


def _arrange_matching(rng: np.random.Generator, layout: _Layout, easy: bool, exchanged: bool) -> None:
    # One or two of three are dotted: where all are alike, any will do.
    dotted = np.full(3, rng.random() < 0.5) if easy else rng.permutation([False, True, rng.random() < 0.5])
    middles = rng.random() + np.arange(3) / 3 + rng.uniform(-0.04, 0.04, 3)
    hues = [(middle - _SAME_HUE, middle + _SAME_HUE) for middle in middles]
    for star, has_dot in enumerate(dotted ^ exchanged):
        layout.add_cue(_look(2 + int(has_dot), "star", hues[star], dotted=bool(has_dot)), _LARGE, (star, 3))
    for _ in range(rng.integers(2, 5)):
        # First the class, then a star of it: else what most stars are would tell.
        star = int(rng.choice(np.arange(3) if easy else np.flatnonzero(dotted == (rng.random() < 0.5))))
        layout.add_object(_look(4 + int(dotted[star] ^ exchanged), "square", hues[star]), _LARGE)


def _arrange_relation(rng: np.random.Generator, layout: _Layout, easy: bool, exchanged: bool) -> None:
    outlines = ("square", "cross")
    which = int(rng.integers(2)) ^ exchanged
    layout.add_cue(_look(2 + which, outlines[which]), _LARGEST)
    for _ in range(rng.integers(2, 5)):
        own = 0 if easy else int(rng.integers(2))
        layout.add_object(_look(4 + int(own != which), outlines[own], _ANY_HUE), _SMALL)


def _look(label: int, outline: str, hue: tuple[float, float] | None = None, *, dotted: bool = False) -> Look:
    """Of the outline's own color by default."""
    category = CATEGORIES.index(outline)
    return Look(label, category, hue_range(category) if hue is None else hue, dotted)


_ARRANGE = {"presence": _arrange_presence, "matching": _arrange_matching, "relation": _arrange_relation}
