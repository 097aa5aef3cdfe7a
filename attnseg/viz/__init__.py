"""Pictures and tables of labels, predictions and training runs."""

from attnseg.viz.confusion import plot_confusion
from attnseg.viz.contour import contours
from attnseg.viz.curves import plot_class_scores, plot_curves
from attnseg.viz.overlay import colourise, comparison, overlay, save_png
from attnseg.viz.table import class_table

__all__ = [
    "class_table",
    "colourise",
    "comparison",
    "contours",
    "overlay",
    "plot_class_scores",
    "plot_confusion",
    "plot_curves",
    "save_png",
]
