"""What single units read and depend on, for the page: sampling points, and the pictures of scripts/analyze.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seg.report.fields import inside, load, mapping, rows_of, word
from seg.report.pictures import Photos, Row, Tile
from seg.report.results import SIZES, Result, Sampling
from seg.report.variants import Variant


def sampling_rows(variants: Sequence[Variant], photos: Photos, most: int = 2) -> list[Row]:
    """Where units on small, on large and on no objects look, `most` of a size; a row each, a tile for each variant."""
    found: dict[tuple[str, str, tuple[float, float]], dict[str, tuple[Sampling, Path]]] = {}
    for variant in variants:
        for unit, path in _units(variant):
            found.setdefault((unit.object_size, unit.name, unit.unit), {})[variant.label] = (unit, path)
    order = {size: index for index, size in enumerate(SIZES)}
    rows, shown = [], dict.fromkeys(SIZES, 0)
    for (size, name, _), units in sorted(found.items(), key=lambda item: (order.get(item[0][0], 9), item[0][1])):
        shown[size] = shown.get(size, 0) + 1
        if shown[size] > most:
            continue
        tiles = [_sampling_tile(label, unit, path, photos) for label, (unit, path) in units.items()]
        length = next(iter(units.values()))[0].length
        extent = f", {length:.0f} px long" if length and size != "background" else ""
        rows.append(
            Row(f"{size} object{extent} ({name})" if size != "background" else f"background ({name})", (*tiles,))
        )
    return rows


def analysis_rows(folder: Path, photos: Photos) -> list[Row]:
    """The pictures that an analysis left in a folder, a row for each unit; none without analysis.json.

    raises: DataError if it is broken, or points outside the folder
    """
    path = folder / "analysis.json"
    if not path.exists():
        return []
    rows = []
    for entry in rows_of(mapping(load(path), path, "the file"), "rows", path):
        tiles = [_analysis_tile(tile, path, photos) for tile in rows_of(entry, "tiles", path)]
        rows.append(Row(word(entry, "title", path), tuple(tiles)))
    return rows


def _analysis_tile(entry: Mapping[str, Any], path: Path, photos: Photos) -> Tile:
    caption, file = word(entry, "caption", path), inside(word(entry, "picture", path), path)
    try:
        photo, size = photos.add(str(file), file)
    except (OSError, ValueError) as error:
        return Tile(caption, str(error))
    return Tile(caption, photo=photo, size=size)


def _units(variant: Variant) -> list[tuple[Sampling, Path]]:
    result = next((result for result in variant.results if result.sampling), None)
    if result is None:
        return []
    paths = {unit.name: unit.image or _photo_of(result, unit.name) for unit in result.sampling}
    return [(unit, path) for unit in result.sampling if (path := paths[unit.name]) is not None]


def _photo_of(result: Result, name: str) -> Path | None:
    return next((example.image for example in result.examples if example.name == name), None)


def _sampling_tile(label: str, unit: Sampling, path: Path, photos: Photos) -> Tile:
    try:
        photo, size = photos.add(unit.name, path)
    except (OSError, ValueError) as error:
        return Tile(label, str(error))
    points = dict(sorted(unit.points.items()))
    return Tile(label, _outside(unit, size), photo, points=points, unit=unit.unit, size=size)


def points_path(points: np.ndarray) -> str:
    """An SVG path of dots: very short strokes with round ends, the smallest way to write many."""
    return "".join(f"M{x:.1f} {y:.1f}h.01" for y, x in points if np.isfinite(y) and np.isfinite(x))


def _outside(unit: Sampling, size: tuple[int, int]) -> str:
    points = unit.points.get(max(unit.points, default=0), np.zeros((0, 2)))
    outside = int(((points < 0) | (points > np.array([size[1] - 1, size[0] - 1]))).any(-1).sum())
    return f"{outside} outside the image" if outside else ""
