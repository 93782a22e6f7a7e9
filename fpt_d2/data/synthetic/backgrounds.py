"""Textured backgrounds of the synthetic data set: muted, so that the shapes stand out.

Shape legend: H, W are the image's height and width. Images are float32 RGB in [0, 1].
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from .classes import PATTERNS


def random_color(
    rng: np.random.Generator,
    saturation: tuple[float, float],
    value: tuple[float, float],
    hue: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """A color, its HSV hue, saturation and value drawn from the given ranges. Returns (3,)."""
    hsv = (rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value))
    return np.array(colorsys.hsv_to_rgb(*hsv), dtype=np.float32)


def draw_background(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, str]:
    """One of `PATTERNS` between two muted colors, with fine grain over it: (H, W, 3), and the pattern's name."""
    name = PATTERNS[rng.integers(len(PATTERNS))]
    pattern = _DRAW[name](rng, height, width)[..., None]
    first = random_color(rng, saturation=(0.1, 0.45), value=(0.25, 0.95))
    # The second color stays near the first, or the stripes would hide the shapes.
    second = np.clip(first + rng.uniform(-0.2, 0.2, 3).astype(np.float32), 0.0, 1.0)
    grain = rng.normal(0.0, rng.uniform(0.005, 0.03), (height, width, 1)).astype(np.float32)
    return np.clip(first + pattern * (second - first) + grain, 0.0, 1.0), name


def _position(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Position of every pixel along a random direction, in pixels, (H, W)."""
    angle = rng.uniform(0.0, 2 * np.pi)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    position: np.ndarray = xs * np.float32(np.cos(angle)) + ys * np.float32(np.sin(angle))
    return position


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return _stretched(_position(rng, height, width))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    period = rng.uniform(0.06, 0.3) * min(height, width)
    wave = np.sin(_position(rng, height, width) * np.float32(2 * np.pi / period))
    # Between a soft wave and hard edges.
    stripes: np.ndarray = 0.5 + 0.5 * np.tanh(wave * np.float32(rng.uniform(0.5, 8.0)))
    return stripes


def _checks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    side = rng.uniform(0.06, 0.25) * min(height, width)
    angle = rng.uniform(0.0, np.pi / 2)
    ys, xs = np.mgrid[:height, :width] / side
    column = np.floor(xs * np.cos(angle) + ys * np.sin(angle))
    row = np.floor(ys * np.cos(angle) - xs * np.sin(angle))
    checks: np.ndarray = ((column + row) % 2).astype(np.float32)
    return checks


def _clouds(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth noise: random grids of 3, 6, 12 and 24 cells, each half as strong as the one before."""
    clouds = np.zeros((height, width), dtype=np.float32)
    for octave in range(4):
        cells = 3 * 2**octave
        grid = rng.random((cells, cells)).astype(np.float32) / 2**octave
        clouds += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return _stretched(clouds)


def _stretched(values: np.ndarray) -> np.ndarray:
    """To the range 0 to 1."""
    stretched: np.ndarray = (values - values.min()) / np.ptp(values)
    return stretched


_DRAW = {"gradient": _gradient, "stripes": _stripes, "checks": _checks, "clouds": _clouds}
