"""Pictures of a training: its curves, and what the trained model predicts."""

from fpt_d2.visualization.comparison import Run, plot_comparison
from fpt_d2.visualization.curves import plot_learning_curves, read_metrics
from fpt_d2.visualization.grid import Example, draw_predictions_grid
from fpt_d2.visualization.predictions import draw_ground_truth, draw_predictions

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
