"""The bins of a deformable RoI pooling in pictures: a box, its bins before and after they moved."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

SIDE = 3.2  # inches of one picture
BOX, BEFORE, AFTER = "#ffd400", "#3a86ff", "#e63946"  # arXiv:1703.06211, figure 7: boxes yellow, moved bins red


def draw_bins(folder: Path, path: Path) -> None:
    """Draw every entry `bins` of a run's boxes.json, four in a row, into a PNG."""
    entries = json.loads((folder / "boxes.json").read_text())["bins"]
    columns = min(4, len(entries))
    rows = -(-len(entries) // columns)
    figure = Figure(figsize=(SIDE * columns, SIDE * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, entry in zip(axes, entries, strict=False):
        draw(axis, np.asarray(Image.open(folder / entry["image"])), entry)
    figure.savefig(path, dpi=150)


def draw(axis: Axes, image: np.ndarray, entry: dict[str, Any]) -> None:
    """One box in its surroundings."""
    x1, y1, x2, y2 = entry["box"]
    axis.imshow(image)
    for boxes, colour, width in (
        ([entry["box"]], BOX, 2.5),
        (entry["before"], BEFORE, 0.8),
        (entry["after"], AFTER, 1.6),
    ):
        for a, b, c, d in boxes:
            axis.add_patch(Rectangle((a, b), c - a, d - b, fill=False, edgecolor=colour, linewidth=width))
    side = max(x2 - x1, y2 - y1)
    axis.set_xlim(max(x1 - 0.5 * side, 0), min(x2 + 0.5 * side, image.shape[1]))
    axis.set_ylim(min(y2 + 0.5 * side, image.shape[0]), max(y1 - 0.5 * side, 0))
    axis.set_title(f"{entry['label']}, read as {entry['prediction']}", fontsize=9)
