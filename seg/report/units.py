"""The pictures that scripts/analyze.py leaves of single units, for the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seg.report.fields import inside, load, mapping, rows_of, word
from seg.report.pictures import Photos, Row, Tile


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
