"""The page's picture rows as PNG files, for a README."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from seg.report import pictures, theme
from seg.report.figures import settings
from seg.report.pictures import Photos, Row, Tile
from seg.report.theme import Theme
from seg.report.variants import Variant

_SIDE = 1.75  # inches of one picture


def save_images(variants: Sequence[Variant], path: Path, most: int = 3) -> None:
    """Photograph, ground truth and every variant's prediction of a few images; nothing without examples."""
    photos = Photos()
    _save(pictures.side_by_side(variants, photos, most), photos, path)


def save_sampling(variants: Sequence[Variant], path: Path) -> None:
    """The points that units on no, a small and a large object read through all layers; nothing without them."""
    photos = Photos()
    _save(pictures.sampling_rows(variants, photos), photos, path)


def _save(rows: Sequence[Row], photos: Photos, path: Path) -> None:
    rows = [row for row in rows if any(tile.photo is not None for tile in row.tiles)]
    if not rows:
        return
    columns = max(len(row.tiles) for row in rows)
    for colours, target in ((theme.LIGHT, path), (theme.DARK, path.with_stem(f"{path.stem}-dark"))):
        with settings(colours, path.stem):
            figure = Figure(
                figsize=(_SIDE * columns, (_SIDE + 0.32) * len(rows)),
                layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05),
            )
            grid = figure.subplots(len(rows), columns, squeeze=False)
            for line, row in zip(grid, rows, strict=True):
                for axes in line:
                    axes.set_axis_off()
                for axes, tile in zip(line, row.tiles, strict=False):
                    _draw(axes, tile, photos, colours, row.title if axes is line[0] else "")
            figure.savefig(target, dpi=160, facecolor=colours["paper"])


def _draw(axes: Axes, tile: Tile, photos: Photos, colours: Theme, title: str) -> None:
    width, height = tile.size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    if tile.photo is not None:
        axes.imshow(_pixels(photos.uris[tile.photo]), extent=extent)
    if tile.classes:
        axes.imshow(_pixels(tile.classes), extent=extent, interpolation="nearest")
    if tile.points and tile.unit:
        y, x = tile.points[max(tile.points)].T
        axes.plot(x, y, ".", color="#ff3b1f", markersize=2.2, markeredgewidth=0)
        axes.plot(tile.unit[1], tile.unit[0], "o", color="#21e06b", markersize=5, markeredgecolor="#08331a")
    axes.set_xlim(extent[:2])
    axes.set_ylim(extent[2:])
    if title:
        axes.text(0, 1.13, title, transform=axes.transAxes, fontsize=7.5, color=colours["muted"], clip_on=False)
    caption = f"{tile.caption}  {tile.note}" if tile.classes else tile.caption
    axes.set_title(caption, fontsize=8, loc="left", color=colours["ink"], pad=3)


def _pixels(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.split(",", 1)[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
