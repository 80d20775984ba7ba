"""The page's picture rows as PNG files, for a README."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from seg.report import pictures, theme, units
from seg.report.figures import settings
from seg.report.pictures import Photos, Row, Tile
from seg.report.theme import Theme
from seg.report.variants import Variant

_SIDE, _GAP, _HEAD = 1.75, 0.1, 0.46  # inches: width of a picture, between two, for the words above a row


def save_images(variants: Sequence[Variant], path: Path, most: int = 3) -> None:
    """Photograph, ground truth and every variant's prediction of a few images; nothing without examples."""
    photos = Photos()
    _save(pictures.side_by_side(variants, photos, most), photos, path)


def save_sampling(variants: Sequence[Variant], path: Path) -> None:
    """The points that units on no, a small and a large object read through all layers; nothing without them."""
    photos = Photos()
    _save(units.sampling_rows(variants, photos), photos, path)


def save_analysis(folder: Path) -> None:
    """overview.png of the pictures that analysis.json lists in a folder."""
    photos = Photos()
    _save(units.analysis_rows(folder, photos), photos, folder / "overview.png")


def _save(rows: Sequence[Row], photos: Photos, path: Path) -> None:
    rows = [row for row in rows if any(tile.photo is not None for tile in row.tiles)]
    if not rows:
        return
    for colours, target in ((theme.LIGHT, path), (theme.DARK, path.with_stem(f"{path.stem}-dark"))):
        with settings(colours, path.stem):
            figure, grid = _canvas(rows)
            for line, row in zip(grid, rows, strict=True):
                for axes, tile in zip(line, row.tiles, strict=True):
                    _draw(axes, tile, photos, colours, row.title if axes is line[0] else "")
            figure.savefig(target, dpi=160, facecolor=colours["paper"])


def _canvas(rows: Sequence[Row]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one axes for each tile, all of one width, each row as high as its pictures."""
    heights = [_SIDE * max(tile.size[1] / tile.size[0] for tile in row.tiles) for row in rows]
    width = (_SIDE + _GAP) * max(len(row.tiles) for row in rows) + _GAP
    height = sum(heights) + _HEAD * len(rows) + _GAP
    figure, grid, top = Figure(figsize=(width, height)), [], height
    for row, tall in zip(rows, heights, strict=True):
        top -= _HEAD + tall
        lefts = [_GAP + index * (_SIDE + _GAP) for index in range(len(row.tiles))]
        boxes = [(left / width, top / height, _SIDE / width, tall / height) for left in lefts]
        grid.append([figure.add_axes(box) for box in boxes])
    return figure, grid


def _draw(axes: Axes, tile: Tile, photos: Photos, colours: Theme, title: str) -> None:
    axes.set_axis_off()
    width, height = tile.size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)  # pixel centres at whole numbers, as the points have them
    if tile.photo is not None:
        axes.imshow(_pixels(photos.uris[tile.photo]), extent=extent)
    if tile.classes:
        axes.imshow(_pixels(tile.classes), extent=extent, interpolation="nearest")
    if tile.points and tile.unit:
        y, x = tile.points[max(tile.points)].T
        for colour, dot in (("white", 3.2), ("#ff3b1f", 2.2)):
            axes.plot(x, y, "o", color=colour, markersize=dot, markeredgewidth=0)
        axes.plot(tile.unit[1], tile.unit[0], "o", color="#21e06b", markersize=5, markeredgecolor="#08331a")
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    if title:
        axes.annotate(title, (0, 1), (0, 17), "axes fraction", "offset points", fontsize=8, color=colours["muted"])
    caption = f"{tile.caption}  {tile.note}" if tile.classes else tile.caption
    axes.set_title(caption, fontsize=8, loc="left", color=colours["ink"], pad=3)


def _pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
