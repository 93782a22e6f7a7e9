"""Pictures of a training: its curves, and what the trained model predicts."""

from .comparison import Run, plot_comparison
from .curves import plot_learning_curves, read_metrics
from .grid import Example, draw_predictions_grid
from .predictions import draw_ground_truth, draw_predictions

__all__ = [
    "Example",
    "Run",
    "draw_ground_truth",
    "draw_predictions",
    "draw_predictions_grid",
    "plot_comparison",
    "plot_learning_curves",
    "read_metrics",
]
