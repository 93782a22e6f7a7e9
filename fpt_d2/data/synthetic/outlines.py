"""Outlines of the shapes of the synthetic data set, each inside the unit circle around the origin."""

from __future__ import annotations

import numpy as np


def _regular(num_points: int, radius: float = 1.0, start: float = -np.pi / 2) -> np.ndarray:
    """Corners of a regular polygon, (num_points, 2)."""
    angles = start + np.linspace(0.0, 2 * np.pi, num_points, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _star() -> np.ndarray:
    """A five-pointed star: outer and inner corners in turn."""
    outer, inner = _regular(5), _regular(5, radius=0.45, start=-np.pi / 2 + np.pi / 5)
    return np.stack([outer, inner], axis=1).reshape(-1, 2)


def _cross() -> np.ndarray:
    """A plus sign with arms a third as wide as it is long."""
    far, near = 0.94, 0.94 / 3
    quarter = np.array([(far, -near), (far, near), (near, near)])
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])  # row vectors: (x, y) -> (-y, x)
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


# Category name -> closed contours filled by the even-odd rule, so that a second contour is a hole.
OUTLINES: dict[str, list[np.ndarray]] = {
    "circle": [_regular(72)],
    "square": [_regular(4, start=np.pi / 4)],
    "triangle": [_regular(3)],
    "star": [_star()],
    "ring": [_regular(72), _regular(72, radius=0.55)],
    "cross": [_cross()],
}
