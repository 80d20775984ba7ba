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
from seg.report.figures import in_lines, settings
from seg.report.pictures import Photos, Row, Tile
from seg.report.theme import Theme
from seg.report.variants import Variant

_SIDE, _GAP, _HEAD = 1.75, 0.1, 0.46  # inches: width of a picture, between two, for the words above a row
_LINE, _LETTER = 0.14, 0.062  # inches: height and width of the words, which are of 8 points


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
                    _draw(axes, tile, photos, colours)
                line[0].annotate(
                    row.title, (0, 1), (0, 17 + 72 * _LINE * (_lines(row) - 1)), "axes fraction", "offset points",
                    fontsize=8, color=colours["muted"],
                )  # fmt: skip
            figure.savefig(target, dpi=160, facecolor=colours["paper"])


def _canvas(rows: Sequence[Row]) -> tuple[Figure, list[list[Axes]]]:
    """A figure with one axes for each tile, all of one width, each row as high as its pictures."""
    heights = [_SIDE * max(tile.size[1] / tile.size[0] for tile in row.tiles) for row in rows]
    heads = [_HEAD + _LINE * (_lines(row) - 1) for row in rows]
    titles = _LETTER * max(len(row.title) for row in rows)
    width = max((_SIDE + _GAP) * max(len(row.tiles) for row in rows), titles + _GAP) + _GAP
    height = sum(heights) + sum(heads) + _GAP
    figure, grid, top = Figure(figsize=(width, height)), [], height
    for row, tall, head in zip(rows, heights, heads, strict=True):
        top -= head + tall
        lefts = [_GAP + index * (_SIDE + _GAP) for index in range(len(row.tiles))]
        boxes = [(left / width, top / height, _SIDE / width, tall / height) for left in lefts]
        grid.append([figure.add_axes(box) for box in boxes])
    return figure, grid


def _caption(tile: Tile) -> str:
    """What stands above a picture, in lines that are not much wider than it."""
    return in_lines(f"{tile.caption}  {tile.note}" if tile.classes else tile.caption)


def _lines(row: Row) -> int:
    return max(_caption(tile).count("\n") + 1 for tile in row.tiles)


def _draw(axes: Axes, tile: Tile, photos: Photos, colours: Theme) -> None:
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
    axes.set_title(_caption(tile), fontsize=8, loc="left", color=colours["ink"], pad=3)


def _pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
