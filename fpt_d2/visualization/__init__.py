"""Pictures of a training: its curves, what the trained model predicts, and what it attends to."""

from .attention import Exploration, Gathered, explore
from .comparison import Run, plot_comparison
from .curves import plot_learning_curves, read_metrics
from .exploration import draw_exploration
from .grid import Example, draw_predictions_grid
from .predictions import draw_ground_truth, draw_objects, draw_predictions

__all__ = [
    "Example",
    "Exploration",
    "Gathered",
    "Run",
    "draw_exploration",
    "draw_ground_truth",
    "draw_objects",
    "draw_predictions",
    "draw_predictions_grid",
    "explore",
    "plot_comparison",
    "plot_learning_curves",
    "read_metrics",
]
